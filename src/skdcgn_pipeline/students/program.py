"""Students as one function of tensors, which ONNX and `torch.export` programs are made of."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor, nn

from skdcgn_pipeline.mechanisms import CounterfactualGenerator
from skdcgn_pipeline.networks.interface import GeneratorSize
from skdcgn_pipeline.networks.programs import save_onnx, trace
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.students.trio import StudentCGN
from skdcgn_pipeline.teachers.teacher import load_teacher
from skdcgn_pipeline.vocabulary import IMAGE_OF_MECHANISM, MECHANISMS

# A graph has one name space, and an image is called `background` too.
INPUTS = ("noise", *(f"{mechanism}_class" for mechanism in MECHANISMS))
OUTPUTS = tuple(IMAGE_OF_MECHANISM[mechanism] for mechanism in MECHANISMS)


class StudentProgram(nn.Module):
    """The function of students that is exported: noise and three labels in, three images out.

    Its ONNX program is a teacher of the name `custom`, see `load_teacher`.
    """

    def __init__(self, students: StudentCGN) -> None:
        super().__init__()
        self.networks = nn.ModuleList(students.network_of(mechanism) for mechanism in MECHANISMS)

    def forward(self, noise: Tensor, shape: Tensor, texture: Tensor, background: Tensor) -> tuple[Tensor, ...]:
        """Return mask, foreground and background for noise [N, noise_dim] and classes [N]."""
        return tuple(
            network(noise, label) for network, label in zip(self.networks, (shape, texture, background), strict=True)
        )


def example_of(students: StudentCGN, num_images: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return noise [N, noise_dim] and the classes [N] of the mechanisms, to trace and to check with."""
    generator = torch_generator(0, "export-example")
    labels = [torch.randint(students.num_classes, (num_images,), generator=generator) for _ in MECHANISMS]
    return (torch.randn(num_images, students.noise_dim, generator=generator), *labels)  # type: ignore[return-value]


def by_onnxruntime(students: StudentCGN) -> CounterfactualGenerator:
    """Return a generator that renders students by ONNX Runtime, on as many threads as torch has now.

    Raises:
        SettingError: If the extra `export` is not installed.
    """
    program = trace(StudentProgram(students).eval(), lambda number: example_of(students, number))
    with TemporaryDirectory() as folder:
        path = Path(folder) / "students.onnx"
        save_onnx(program, INPUTS, OUTPUTS, path)
        return load_teacher("custom", path, **GeneratorSize.of(students)._asdict())

"""The trio: three distilled mechanisms behind the teacher's interface."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from skdcgn_pipeline.artifacts.store import sha256_of_file
from skdcgn_pipeline.counterfactuals.datasets import ClassesLike, sample_counterfactuals
from skdcgn_pipeline.mechanisms import MechanismLabels
from skdcgn_pipeline.networks.interface import GeneratorSize, MechanismGenerator
from skdcgn_pipeline.networks.pretrained import PretrainedModel
from skdcgn_pipeline.parameters import Composition
from skdcgn_pipeline.runtime.errors import SettingError, check_choice
from skdcgn_pipeline.students.architectures import make_student
from skdcgn_pipeline.students.released import released_card, released_path, released_students
from skdcgn_pipeline.vocabulary import MECHANISMS


class StudentCGN(MechanismGenerator, PretrainedModel):
    """Three distilled mechanisms behind the teacher's interface.

    Args:
        noise_dim: Length of the noise.
        num_classes: Number of classes.
        image_size: Height and width.
        architectures: For each mechanism, what `make_student` takes.
    """

    KIND = "students"
    CONFIG_KEYS = ("noise_dim", "num_classes", "image_size", "architectures")

    def __init__(
        self, noise_dim: int, num_classes: int, image_size: int, architectures: Mapping[str, Mapping[str, Any]]
    ) -> None:
        super().__init__()
        self.noise_dim, self.num_classes, self.image_size = noise_dim, num_classes, image_size
        self.architectures = {mechanism: dict(architectures[mechanism]) for mechanism in MECHANISMS}
        size = GeneratorSize.of(self)
        self.students = nn.ModuleDict({m: make_student(m, self.architectures[m], size) for m in MECHANISMS})
        self._is_fused = False

    def network_of(self, mechanism: str) -> Any:
        """Return the student of one mechanism."""
        return self.students[mechanism]

    def paint(self, mechanism: str, noise: Tensor, classes: Tensor) -> Tensor:
        """Return a mechanism's images, see `MechanismGenerator.paint`."""
        student = self.network_of(mechanism)
        return student.fused(noise, classes) if self._is_fused else student(noise, classes)

    @property
    def runtime(self) -> str:
        """What renders: `torch`, or, of a `fused` copy, `kernels` (Numba's loops); both, where students differ."""
        return ", ".join(sorted({self.network_of(m).runtime for m in MECHANISMS})) if self._is_fused else "torch"

    def fused(self) -> StudentCGN:
        """Return a copy that renders by the fastest runtime that is installed, which its `runtime` tells.

        It computes the same function in another order of summation: masks and images differ by
        rounding, less than 1e-3. Work that is addressed by its inputs (pools, samples) takes the
        network as it was trained, so that its bits do not depend on this. The loops are compiled when
        the first image is rendered, in seconds.
        """
        students = copy.deepcopy(self).eval()
        students._is_fused = True
        return students.requires_grad_(False)

    def sample(
        self,
        num_images: int,
        seed: int | Sequence[int] = 0,
        shape: ClassesLike | None = None,
        texture: ClassesLike | None = None,
        background: ClassesLike | None = None,
        composition: Composition | None = None,
    ) -> tuple[Tensor, MechanismLabels]:
        """Render and compose counterfactuals.

        Args:
            num_images: How many.
            seed: With one seed, image i depends on the seed and i alone; with one per image, each is the first
                image of its seed.
            shape, texture, background: One class or one per image; None draws them at random.
            composition: Transformations, patch shift, and how classes that are not given are drawn, see
                `sample_counterfactuals`.

        Returns:
            Composites [N, 3, H, W] in [-1, 1] and the class of each mechanism; a classifier learns the
            `shape` of them.

        Raises:
            SettingError: If a number, a seed or a class is impossible.
        """
        classes = {"shape": shape, "texture": texture, "background": background}
        return sample_counterfactuals(self, num_images, seed, classes, composition)

    @classmethod
    def from_released(cls, name: str) -> StudentCGN:
        """Load students that come with the package; frozen and in eval mode.

        Args:
            name: A name in `released_students()`, such as `wildlife_mnist`.

        Raises:
            SettingError: If there is no such release, or its weights are not those of its card.
        """
        check_choice("students", name, released_students())
        weights = released_path(name, ".safetensors")
        remedy = "Install the package again."
        card = released_card(name)
        if (sha256 := sha256_of_file(weights)) != card["sha256"]:
            raise SettingError(f"students '{name}'", f"weights with SHA-256 {card['sha256']}", sha256, remedy)
        return cls._load(released_path(name, ".json"), weights, f"the released students '{name}'", remedy)

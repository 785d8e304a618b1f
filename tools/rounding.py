"""What rounding costs released students: bytes, mask IoU and L1 to the teacher on noise never trained on.

SKDCGN_ASSETS=/path/to/assets python tools/rounding.py [NUM_IMAGES]
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import torch
from released_mnist import NAMES, teacher_of
from torch import Tensor

from skdcgn_pipeline.mechanisms import CounterfactualGenerator, MechanismImages
from skdcgn_pipeline.metrics.likeness import mask_iou, mean_absolute_difference
from skdcgn_pipeline.networks.pretrained import WEIGHTS_FILE
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.students.trio import StudentCGN

BATCH_SIZE = 500


def render(generator: CounterfactualGenerator, noise: Tensor) -> MechanismImages:
    """Return images of noise [N, noise_dim], all classes alike."""
    labels = torch.arange(len(noise)) % generator.num_classes
    parts = [generator.render(*part) for part in zip(noise.split(BATCH_SIZE), labels.split(BATCH_SIZE), strict=True)]
    return MechanismImages(*(torch.cat([vars(part)[name] for part in parts]) for name in vars(parts[0])))


def rows_of(name: str, num_images: int) -> Iterator[str]:
    """Give a line per number of bits."""
    teacher = teacher_of(name)
    noise = torch.randn(num_images, teacher.noise_dim, generator=torch_generator(0, "rounding"))
    expected, students = render(teacher, noise), StudentCGN.from_released(name)
    for bits in (None, 8, 7, 6, 5, 4):
        with tempfile.TemporaryDirectory() as folder:
            students.save_pretrained(folder, bits)
            size = (Path(folder) / WEIGHTS_FILE).stat().st_size
            images = render(StudentCGN.from_pretrained(folder).fused(), noise)
        pairs = [(vars(images)[part], vars(expected)[part]) for part in ("foreground", "background")]
        distances = " / ".join(f"{mean_absolute_difference(*pair):.4f}" for pair in pairs)
        iou = mask_iou(images.mask, expected.mask)
        yield f"{name} {bits or 'float32'}: {size:,} bytes, IoU {iou:.4f}, L1 {distances}"


def main() -> None:
    """Tell all lines."""
    num_images = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    for name in NAMES:
        for row in rows_of(name, num_images):
            sys.stdout.write(f"{row}\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()

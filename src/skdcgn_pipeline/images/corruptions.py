"""Corruptions of test images: noise, blur, contrast and shift, each at five strengths.

Noise, blur and contrast are computed as in ImageNet-C (Hendrycks & Dietterich, arXiv 1903.12261), shift as `translate`
of MNIST-C (Mu & Gilmer, arXiv 1906.02337). What is random belongs to the row of an image, not to the batch that it is
in, and is the same at every strength. As there, corrupted images are bytes again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from torch.nn import functional as F

from skdcgn_pipeline.images.image_set import ImageFiles, ImagesInMemory, Split
from skdcgn_pipeline.parameters import CorruptionName
from skdcgn_pipeline.runtime.seeding import torch_generator
from skdcgn_pipeline.samples.pixels import encode_images, from_bytes
from skdcgn_pipeline.transformations import transform_mechanism

# By strength, from 1. Lengths are parts of the image size, so that a strength means the same at every size.
STRENGTHS: dict[CorruptionName, tuple[float, ...]] = {
    # Standard deviation where black is 0 and white 1, as in ImageNet-C.
    "noise": (0.08, 0.12, 0.18, 0.26, 0.38),
    # Standard deviation of the Gaussian; in the ratios of ImageNet-C, whose images of 224 pixels have finer lines.
    "blur": (1 / 64, 2 / 64, 3 / 64, 4 / 64, 6 / 64),
    # Factor on the distance from the image's mean colour, as in ImageNet-C.
    "contrast": (0.4, 0.3, 0.2, 0.1, 0.05),
    # Along both axes; MNIST-C moves images of 28 pixels by 1 to 5.
    "shift": (1 / 28, 2 / 28, 3 / 28, 4 / 28, 5 / 28),
}


def corrupt(images: Tensor, corruption: CorruptionName, value: float, generators: Sequence[Generator]) -> Tensor:
    """Corrupt images, each with random numbers of its own.

    - noise: x + 2 value e, e standard normal by pixel and channel, clipped (images are two units wide).
    - blur: a Gaussian filter with a standard deviation of value times the image size, mirrored at the edges.
    - contrast: m + value (x - m), m the mean of each channel of the image.
    - shift: by value times the image size, in whole pixels and at least one, along both axes, in one of the four
      directions; what comes in continues the edge, where MNIST-C has black, which its images end in.

    Args:
        images: [N, C, S, S] in [-1, 1].
        corruption: Its name.
        value: What `STRENGTHS` says of it.
        generators: One CPU generator per image.

    Returns:
        Images of the same shape and range.
    """
    size = images.shape[-1]
    if corruption == "shift":
        return _shift(images, max(1, round(value * size)), generators)
    kind, strength = {
        "noise": ("gaussian_noise", 2 * value),
        "blur": ("blur", value * size),
        "contrast": ("flatten", 1 - value),
    }[corruption]
    return transform_mechanism(images, "background", [(kind, strength)], generators)


def _shift(images: Tensor, pixels: int, generators: Sequence[Generator]) -> Tensor:
    height, width = images.shape[-2:]
    padded = F.pad(images, (pixels,) * 4, "replicate")
    corners = [(2 * pixels * torch.randint(2, (2,), generator=each)).tolist() for each in generators]
    cut = [image[:, y : y + height, x : x + width] for image, (y, x) in zip(padded, corners, strict=True)]
    return torch.stack(cut)


@dataclass(frozen=True)
class CorruptedImages:
    """Images of a split that are corrupted when they are asked for.

    Attributes:
        rows: The images.
        corruption: Its name.
        strength: From 1 to 5.
        seed: Base seed.
    """

    rows: ImagesInMemory | ImageFiles
    corruption: CorruptionName
    strength: int
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def take(self, rows: Tensor) -> Tensor:
        """Return the images of rows [B], uint8 [B, 3, S, S]; none depends on the others."""
        generators = [torch_generator(self.seed, f"corruption-{self.corruption}", row) for row in rows.tolist()]
        value = STRENGTHS[self.corruption][self.strength - 1]
        corrupted = corrupt(from_bytes(self.rows.take(rows)), self.corruption, value, generators)
        return torch.from_numpy(encode_images("background", corrupted))


def corrupt_split(split: Split, corruption: CorruptionName, strength: int, seed: int) -> Split:
    """Return a split whose images are corrupted; what is known of them stays."""
    return replace(split, rows=CorruptedImages(split.rows, corruption, strength, seed))

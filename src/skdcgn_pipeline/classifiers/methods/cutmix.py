"""A rectangle of one image pasted into another."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.methods.mixup import mixed_lesson
from skdcgn_pipeline.classifiers.training import Lesson


def draw_rectangle(height: int, width: int, kept: float, generator: np.random.Generator) -> tuple[slice, slice]:
    """Draw a rectangle of sqrt(1 - kept) of both sides around a random pixel, cut off at the border."""
    parts = []
    for size in (height, width):
        half, centre = int(size * math.sqrt(1 - kept)) // 2, int(generator.integers(size))
        parts.append(slice(max(0, centre - half), min(size, centre + half)))
    return parts[0], parts[1]


@dataclass(frozen=True)
class CutMix(Method):
    """x = M x_i + (1 - M) x_j with a rectangle of zeros in M, labels mixed by the share of pixels; l ~ Beta(1, 1).

    The rectangle covers 1 - l of the image before it is cut off at the border; one for all pairs of a batch.

    Yun et al., "CutMix: Regularization strategy to train strong classifiers with localizable features", ICCV 2019,
    arXiv 1905.04899.

    Attributes:
        probability: Share of batches that are mixed; 0.5 on the paper's CIFAR, 1 on its ImageNet.
    """

    name = "cutmix"
    title = "CutMix"
    paper = "Yun et al. 2019, arXiv 1905.04899"
    grid = ({"probability": 0.5}, {"probability": 1.0})

    probability: float = 0.5

    def mix(self, images: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor, float]:
        """Paste into images as `mixed_lesson` asks for it."""
        partners, kept = torch.from_numpy(generator.permutation(len(images))), 1.0
        if generator.random() < self.probability:
            height, width = images.shape[-2:]
            rows, columns = draw_rectangle(height, width, float(generator.beta(1, 1)), generator)
            pasted = images[partners][:, :, rows, columns]
            images[:, :, rows, columns] = pasted
            kept = 1 - pasted[0, 0].numel() / (height * width)
        return images, partners, kept

    def lesson(self, material: Material) -> Lesson:
        """Draw originals and paste into each a part of another of its batch."""
        return mixed_lesson(material, self.name, self.mix)

"""Images and labels mixed in pairs: added up, or a rectangle of one pasted into the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.runtime.seeding import numpy_generator


def soft_loss(logits: Tensor, targets: Tensor) -> Mapping[str, Tensor]:
    """Return the cross-entropy with probabilities of classes [B, K]."""
    return {"loss": F.cross_entropy(logits.float(), targets)}


def mix_labels(labels: Tensor, partners: Tensor, kept: float, num_classes: int) -> Tensor:
    """Return classes [B] as probabilities [B, K]: `kept` of the own class, the rest of the partner's."""
    own = F.one_hot(labels, num_classes).float()
    return kept * own + (1 - kept) * own[partners]


def mixed_lesson(
    material: Material, purpose: str, mix: Callable[[Tensor, np.random.Generator], tuple[Tensor, Tensor, float]]
) -> Lesson:
    """Return what is learnt of originals, each mixed with a partner of its batch.

    Args:
        purpose: Word that sets these draws apart from others.
        mix: Images [B, 3, H, W] and a generator -> mixed images, the row [B] of each one's partner, and the share in
            [0, 1] of an image that is its own.
    """
    drawn = draw_from_split(material.originals(), material.seed, "classifier-rows")

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        images, labels = drawn(step, batch_size)
        mixed, partners, kept = mix(images, numpy_generator(material.seed, purpose, step))
        return mixed, mix_labels(labels, partners, kept, material.num_classes)

    return Lesson(draw, material.fit.batch_size, soft_loss)


@dataclass(frozen=True)
class Mixup(Method):
    """x = l x_i + (1 - l) x_j, and its loss l CE(f(x), y_i) + (1 - l) CE(f(x), y_j), l ~ Beta(alpha, alpha) per batch.

    The larger of l and 1 - l counts, which mixes the same pairs; at alpha 0 nothing is mixed.

    Zhang et al., "mixup: Beyond empirical risk minimization", ICLR 2018, arXiv 1710.09412.

    Attributes:
        alpha: How evenly pairs are mixed; 0.1 to 0.4 on the paper's ImageNet, 1 on its CIFAR.
    """

    name = "mixup"
    title = "mixup"
    paper = "Zhang et al. 2018, arXiv 1710.09412"
    grid = ({"alpha": 0.2}, {"alpha": 1.0})

    alpha: float = 0.2

    def mix(self, images: Tensor, generator: np.random.Generator) -> tuple[Tensor, Tensor, float]:
        """Mix images as `mixed_lesson` asks for it."""
        kept = float(generator.beta(self.alpha, self.alpha)) if self.alpha else 1.0
        kept = max(kept, 1 - kept)
        partners = torch.from_numpy(generator.permutation(len(images)))
        return kept * images + (1 - kept) * images[partners], partners, kept

    def lesson(self, material: Material) -> Lesson:
        """Draw originals and mix each with another of its batch."""
        return mixed_lesson(material, self.name, self.mix)


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

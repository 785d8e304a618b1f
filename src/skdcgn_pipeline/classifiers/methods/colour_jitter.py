"""Colours changed at random: the augmentation that comes to mind first where colours mislead."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_from_split
from skdcgn_pipeline.runtime.seeding import torch_generator

# From RGB to YIQ, in which a hue is an angle.
YIQ = torch.tensor([[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]])
JITTERED = 0.8  # share of images whose colours are changed


def jitter_matrices(brightness: Tensor, saturation: Tensor, hue: Tensor) -> Tensor:
    """Return what changes colours in [0, 1] as matrices [B, 3, 3].

    Args:
        brightness: [B] factor of all channels.
        saturation: [B] factor of what sets them apart; 0 is grey.
        hue: [B] turn of the hue, 1 for the whole circle.
    """
    angle = 2 * math.pi * hue
    turned = torch.zeros(len(hue), 3, 3)
    turned[:, 0, 0] = 1
    turned[:, 1, 1] = turned[:, 2, 2] = saturation * angle.cos()
    turned[:, 2, 1] = saturation * angle.sin()
    turned[:, 1, 2] = -turned[:, 2, 1]
    return brightness[:, None, None] * (torch.linalg.inv(YIQ) @ turned @ YIQ)


@dataclass(frozen=True)
class ColourJitter(Method):
    """ERM on originals whose colours are changed at random, each image otherwise.

    x' = clip(c (M x - m) + m): M scales brightness and saturation by factors in [1 - 0.8 s, 1 + 0.8 s] and turns the
    hue by up to 0.2 s of the circle, c is a contrast from the same range around the image's mean grey m. 80 % of the
    images are jittered, and `grey` of all lose their colour. The hue is turned in YIQ, by one matrix for all pixels.

    Chen et al., "A simple framework for contrastive learning of visual representations" (appendix A), ICML 2020,
    arXiv 2002.05709.

    Attributes:
        strength: s above.
        grey: Share of images that become grey, 0.2 in the paper.
    """

    name = "colour_jitter"
    title = "colour jitter and grey"
    paper = "Chen et al. 2020, arXiv 2002.05709"
    grid = ({"strength": 0.5}, {"strength": 1.0}, {"strength": 1.0, "grey": 0.8})

    strength: float = 1.0
    grey: float = 0.2

    def jitter(self, images: Tensor, generator: torch.Generator) -> Tensor:
        """Return images [B, 3, H, W] in [-1, 1] in other colours."""
        factors, hue = torch.rand(4, len(images), generator=generator), 0.2 * self.strength
        chance = torch.rand(2, len(images), generator=generator)
        left = (chance[0] >= JITTERED)[None]
        brightness, contrast, saturation = (1 + 0.8 * self.strength * (2 * factors[:3] - 1)).masked_fill(left, 1.0)
        turn = (hue * (2 * factors[3] - 1)).masked_fill(left[0], 0.0)
        matrices = jitter_matrices(brightness, saturation.masked_fill(chance[1] < self.grey, 0.0), turn)
        colours = (matrices @ ((images + 1) / 2).flatten(2)).view_as(images)
        grey = torch.einsum("c,bchw->b", YIQ[0], colours)[:, None, None, None] / images[0, 0].numel()
        return (contrast[:, None, None, None] * (colours - grey) + grey).clamp(0, 1) * 2 - 1

    def lesson(self, material: Material) -> Lesson:
        """Draw originals and change their colours."""
        drawn = draw_from_split(material.originals(), material.seed, "classifier-rows")

        def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
            images, labels = drawn(step, batch_size)
            return self.jitter(images, torch_generator(material.seed, "colour-jitter", step)), labels

        return class_lesson(draw, material.fit)

"""Just train twice: what a first classifier gets wrong comes more often."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from skdcgn_pipeline.classifiers.accuracy import predict_split
from skdcgn_pipeline.classifiers.methods.contract import Material, Method, share_of
from skdcgn_pipeline.classifiers.torchvision_classifier import ALL_HEADS
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_from_images
from skdcgn_pipeline.parameters import ClassifierFit


def upweighted_rows(wrong: Tensor, upweight: float) -> Tensor:
    """Return the rows of an epoch: all, and those that are wrong [N] `upweight` times in all, rounded."""
    errors = wrong.nonzero()[:, 0]
    return torch.cat([torch.arange(len(wrong)), errors.repeat(max(0, round(upweight) - 1))])


@dataclass(frozen=True)
class JTT(Method):
    """L = (u sum_{i in E} CE(f(x_i), y_i) + sum_{i not in E} CE(f(x_i), y_i)) / N', E the errors of a first classifier.

    The first is trained plainly on a share of the images of the budget, the second, from the start, on the rest.

    Liu et al., "Just train twice: Improving group robustness without training group information", ICML 2021,
    arXiv 2107.09044.

    Attributes:
        upweight: u; 4 to 100 in the paper.
        first: Share of the budget of the first classifier.
    """

    name = "jtt"
    title = "JTT"
    paper = "Liu et al. 2021, arXiv 2107.09044"
    grid = ({"upweight": 5.0}, {"upweight": 20.0}, {"upweight": 100.0})

    upweight: float = 20.0
    first: float = 0.2

    def budget(self, fit: ClassifierFit) -> ClassifierFit:
        """Return what the first classifier leaves."""
        return share_of(fit, 1 - self.first)

    def lesson(self, material: Material) -> Lesson:
        """Draw the originals, those that the first classifier gets wrong several times an epoch."""
        split = material.originals()
        first = material.trained(share_of(material.fit, self.first))
        logits = predict_split(first, split, material.compute)[ALL_HEADS]
        rows = upweighted_rows(logits.argmax(1) != split.labels, self.upweight)
        draw = draw_from_images(split.images, split.labels, material.seed, "classifier-rows", rows)
        return class_lesson(draw, material.fit)

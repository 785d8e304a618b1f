"""Plain training on what the test sets are like: the ceiling."""

from __future__ import annotations

from dataclasses import dataclass

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_from_split


@dataclass(frozen=True)
class Unbiased(Method):
    """ERM where nothing but the shape gives the class away: the training shapes in colours of any class.

    No method can know these images; it is what the network reaches at this budget without a bias. No test image is
    among them. Vapnik 1991, see `erm`.
    """

    name = "unbiased"
    title = "ERM on the true test distribution (ceiling)"
    paper = "–"
    uses = ("unbiased",)

    def lesson(self, material: Material) -> Lesson:
        """Draw the recoloured training shapes, epoch after epoch."""
        return class_lesson(draw_from_split(material.unbiased(), material.seed, "classifier-rows"), material.fit)

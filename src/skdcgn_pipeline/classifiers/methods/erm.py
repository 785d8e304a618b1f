"""Plain training on the originals: what every other method is a remedy for."""

from __future__ import annotations

from dataclasses import dataclass

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_from_split


@dataclass(frozen=True)
class ERM(Method):
    """Empirical risk minimisation: L = (1/N) sum_i CE(f(x_i), y_i) over the biased training images.

    Vapnik, "Principles of risk minimization for learning theory", NIPS 1991.
    """

    name = "erm"
    title = "ERM on originals"
    paper = "Vapnik 1991"

    def lesson(self, material: Material) -> Lesson:
        """Draw the originals, epoch after epoch."""
        return class_lesson(draw_from_split(material.originals(), material.seed, "classifier-rows"), material.fit)

"""Plain training: on the originals, for which every other method is a remedy, and on what the test sets are like."""

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
        """Draw the images, epoch after epoch."""
        split = material.unbiased() if "unbiased" in self.uses else material.originals()
        return class_lesson(draw_from_split(split, material.seed, "classifier-rows"), material.fit)


@dataclass(frozen=True)
class Unbiased(ERM):
    """ERM where nothing but the shape gives the class away: the training shapes in colours of any class; the ceiling.

    No method can know these images; it is what the network reaches at this budget without a bias. No test image is
    among them.
    """

    name = "unbiased"
    title = "ERM on the true test distribution (ceiling)"
    paper = "–"
    uses = ("unbiased",)

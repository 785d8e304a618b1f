"""Groups drawn equally often."""

from __future__ import annotations

from dataclasses import dataclass

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson
from skdcgn_pipeline.images.batches import draw_balanced


@dataclass(frozen=True)
class Reweighting(Method):
    """Re-weighting by group (RWG): L = (1/G) sum_g (1/N_g) sum_{i in g} CE(f(x_i), y_i).

    Every batch draws its images from all groups alike, which has that loss as its mean; a group is a class, aligned or
    in conflict with the bias. Where one of these has no images there is nothing to weight.

    Idrissi et al., "Simple data balancing achieves competitive worst-group-accuracy", CLeaR 2022, arXiv 2110.14503.
    """

    name = "reweighting"
    title = "reweighting by group"
    paper = "Idrissi et al. 2022, arXiv 2110.14503"
    needs_groups = True

    def lesson(self, material: Material) -> Lesson:
        """Draw groups, and an image of each."""
        images, labels, groups = material.images_and_groups()
        return class_lesson(draw_balanced(images, labels, groups, material.seed, "classifier-groups"), material.fit)

"""Counterfactuals in pairs: the same shape in two guises should give the same logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from torch import Tensor

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson, class_lesson


def difference_of_pairs(logits: Tensor) -> Tensor:
    """Return the mean squared difference of logits [B, K] in pairs, rows 2 i and 2 i + 1, without a last one alone."""
    logits, num_paired = logits.float(), len(logits) // 2 * 2
    difference = logits[:num_paired:2] - logits[1:num_paired:2]
    return difference.square().sum() / max(1, difference.numel())


@dataclass(frozen=True)
class CounterfactualPairs(Method):
    """L = mean CE(f(x), y) + w mean |f(x) - f(x')|^2: x and x' share the mask, their texture and background differ.

    Noisy counterfactual matching asks that the last layer sees no difference between pairs; here its square is
    penalised, for the whole network. A pair counts as two images of the budget.

    Bai et al., "From invariant representations to invariant data: Provable robustness to spurious correlations via
    noisy counterfactual matching", 2025, arXiv 2505.24843.

    Attributes:
        weight: w above.
    """

    name = "pairs"
    title = "students' counterfactuals in pairs"
    paper = "Bai et al. 2025, arXiv 2505.24843"
    uses = ("students",)
    grid = ({"weight": 0.1}, {"weight": 1.0})

    weight: float = 0.1

    def lesson(self, material: Material) -> Lesson:
        """Compose counterfactuals, two of each mask."""
        pool, composition = material.pools["students"](), material.composition
        draw = pool.draw_labelled_batch(composition, material.seed, "counterfactual-pairs", per_shape=2)
        plain = class_lesson(draw, material.fit)

        def losses(logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
            return {"loss": plain.losses(logits, labels)["loss"] + self.weight * difference_of_pairs(logits)}

        return replace(plain, losses=losses)

"""Counterfactuals in pairs: the same shape in two guises should give the same logits."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.runtime.seeding import torch_generator


def paired_loss(logits: Tensor, labels: Tensor, weight: float) -> Tensor:
    """Return the cross-entropy of all, plus `weight` times the mean squared difference of the logits of pairs.

    Args:
        logits: [B, K]; rows 2 i and 2 i + 1 are a pair.
        labels: [B].
        weight: Of the second term.
    """
    logits, num_paired = logits.float(), len(logits) // 2 * 2
    first, second = logits[:num_paired:2], logits[1:num_paired:2]
    return F.cross_entropy(logits, labels) + weight * F.mse_loss(first, second)


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

        def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
            generator = torch_generator(material.seed, "counterfactual-pairs", step)
            record = pool.draw_records(batch_size, 2, composition, generator)
            return pool.compose_records(record, composition, generator), record.labels[:, 0]

        def losses(logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
            return {"loss": paired_loss(logits, labels, self.weight)}

        return Lesson(draw, material.fit.batch_size, losses)

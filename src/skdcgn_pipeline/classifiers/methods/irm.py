"""Invariant risk minimisation over two environments."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.images.batches import draw_from_images

NUM_ENVIRONMENTS = 2


def scale_gradient(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the derivative of mean CE(w * logits, labels) by w at w = 1: mean over images of sum_k (p_k - y_k) z_k."""
    expected = (logits.softmax(1) * logits).sum(1)
    return (expected - logits.gather(1, labels[:, None])[:, 0]).mean()


def environments_of(conflicting: Tensor) -> Tensor:
    """Put images [N] into two environments of which the second has twice as many that are in conflict with the bias.

    The aligned ones come in turns; of each three in conflict the first goes to the first environment.
    """
    number = torch.where(conflicting, conflicting.cumsum(0) - 1, (~conflicting).cumsum(0) - 1)
    return torch.where(conflicting, number % 3 > 0, number % 2 > 0).long()


class _Penalised(nn.Module):
    """IRM's loss; counts its calls, for the penalty comes late.

    Args:
        penalty: Its weight.
        num_warm_up: Steps before it is there.
    """

    step: Tensor

    def __init__(self, penalty: float, num_warm_up: int) -> None:
        super().__init__()
        self.penalty, self.num_warm_up = penalty, num_warm_up
        self.register_buffer("step", torch.zeros((), dtype=torch.long))

    def forward(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Return the loss of logits [B, K] and labels [B, 2]: class and environment."""
        logits, (classes, environments) = logits.float(), labels.unbind(1)
        risk, penalty = F.cross_entropy(logits, classes), logits.new_zeros(())
        for environment in range(NUM_ENVIRONMENTS):
            rows = (environments == environment).nonzero()[:, 0]
            if len(rows) > 1:  # two independent halves: their product has the square as its mean
                halves = [scale_gradient(logits[part], classes[part]) for part in (rows[::2], rows[1::2])]
                penalty = penalty + halves[0] * halves[1] / NUM_ENVIRONMENTS
        weight = self.penalty if int(self.step) >= self.num_warm_up else min(1.0, self.penalty)
        self.step += 1
        return {"loss": (risk + weight * penalty) / max(1.0, weight)}


@dataclass(frozen=True)
class IRM(Method):
    """L = R(f) + lambda mean_e |d/dw R_e(w f)|^2 at w = 1 (IRMv1), divided by lambda where it is above 1.

    As in the paper's coloured MNIST, there are two environments, in the second twice as many images in conflict with
    the bias, and the penalty comes after 190 of 501 steps (weight 1 before). Environments are made of known conflicts;
    where there are none, both are alike and the penalty has nothing to go by.

    Arjovsky et al., "Invariant risk minimization", 2019, arXiv 1907.02893; the product of two halves for the square as
    in DomainBed, arXiv 2007.01434.

    Attributes:
        penalty: lambda; about 91,000 in the paper.
        warm_up: Share of the steps before it.
    """

    name = "irm"
    title = "IRM"
    paper = "Arjovsky et al. 2019, arXiv 1907.02893"
    needs_groups = True
    grid = ({"penalty": 100.0}, {"penalty": 91000.0})

    penalty: float = 100.0
    warm_up: float = 0.38

    def lesson(self, material: Material) -> Lesson:
        """Draw originals of both environments, epoch after epoch."""
        split = material.originals()
        assert split.groups is not None
        labels = torch.stack([split.labels, environments_of(split.groups % 2 == 1)], 1)
        loss = _Penalised(self.penalty, round(self.warm_up * material.fit.num_steps))
        draw = draw_from_images(split.images, labels, material.seed, "classifier-rows")
        return Lesson(draw, material.fit.batch_size, loss, state=loss)

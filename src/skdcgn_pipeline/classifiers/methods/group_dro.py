"""The worst group's loss, found while training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from skdcgn_pipeline.classifiers.methods.contract import Material, Method
from skdcgn_pipeline.classifiers.training import Lesson
from skdcgn_pipeline.images.batches import draw_balanced, shape_classes
from skdcgn_pipeline.images.epochs import DrawBatch


class _WorstGroups(nn.Module):
    """Losses of groups, weighted by q, which grows with them.

    Args:
        num_groups: Number of groups.
        step_size: eta.

    Attributes:
        weights: q [G], sums to 1.
    """

    weights: Tensor

    def __init__(self, num_groups: int, step_size: float) -> None:
        super().__init__()
        self.step_size = step_size
        self.register_buffer("weights", torch.full((num_groups,), 1 / num_groups))

    def forward(self, logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        """Return the loss of logits [B, K] and labels [B, 2]: class and group."""
        classes, groups = labels.unbind(1)
        losses = F.cross_entropy(logits.float(), classes, reduction="none")
        counts = torch.bincount(groups, minlength=len(self.weights))
        of_groups = torch.zeros_like(self.weights).index_add(0, groups, losses) / counts.clamp(min=1)
        with torch.no_grad():
            # By their logarithms: a loss that is great for a step would be infinite as a factor.
            self.weights.copy_((self.weights.log() + self.step_size * of_groups).softmax(0))
        return {"loss": (self.weights * of_groups).sum()}


def worst_class_lesson(draw_batch: DrawBatch, batch_size: int, num_classes: int, step_size: float) -> Lesson:
    """Return what a classifier with one head learns where every class is a group: those of high loss weigh more.

    Args:
        draw_batch: Gives images and labels [B], or [B, 3] of shape, texture and background.
        batch_size: Images per step.
        num_classes: Number of classes.
        step_size: eta of `GroupDRO`.
    """
    loss = _WorstGroups(num_classes, step_size)

    def losses(logits: Tensor, labels: Tensor) -> Mapping[str, Tensor]:
        classes = shape_classes(labels)
        return loss(logits, torch.stack([classes, classes], 1))

    return Lesson(draw_batch, batch_size, losses, state=loss)


@dataclass(frozen=True)
class GroupDRO(Method):
    """min_f max_q sum_g q_g L_g(f): q_g <- q_g exp(eta L_g) and normalised, then a step of f on sum_g q_g L_g.

    Every batch draws its images from all groups alike, as in the paper's algorithm 1; a group is a class, aligned or in
    conflict with the bias. Groups without images do not count.

    Sagawa et al., "Distributionally robust neural networks for group shifts", ICLR 2020, arXiv 1911.08731.

    Attributes:
        step_size: eta, 0.01 in the paper.
    """

    name = "group_dro"
    title = "GroupDRO"
    paper = "Sagawa et al. 2020, arXiv 1911.08731"
    needs_groups = True
    grid = ({"step_size": 0.01}, {"step_size": 0.1})

    step_size: float = 0.01

    def lesson(self, material: Material) -> Lesson:
        """Draw groups, and an image of each."""
        images, labels, groups = material.images_and_groups()
        loss = _WorstGroups(int(groups.max()) + 1, self.step_size)
        draw = draw_balanced(images, torch.stack([labels, groups], 1), groups, material.seed, "classifier-groups")
        return Lesson(draw, material.fit.batch_size, loss, state=loss)

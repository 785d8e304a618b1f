"""Exponential moving average of a network's weights and buffers."""

from __future__ import annotations

import copy
from typing import Generic

import torch

from skdcgn_pipeline.runtime.compute import ModuleT


class WeightAverage(Generic[ModuleT]):
    """Keep `average`, a copy of a network that follows it slowly.

    The decay is smaller in the first steps, min(decay, (1 + step) / (10 + step)), so that the initial
    weights are forgotten. Running statistics of batch-norm are averaged like weights.

    Args:
        network: The network that is trained.
        decay: Share of the average that a step keeps; 0 makes it a plain copy.
    """

    def __init__(self, network: ModuleT, decay: float) -> None:
        self.average: ModuleT = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        self._pairs = [
            (mine, theirs)
            for mine, theirs in zip(self.average.state_dict().values(), network.state_dict().values(), strict=True)
        ]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        floating = [(mine, theirs) for mine, theirs in self._pairs if mine.is_floating_point()]
        torch._foreach_lerp_([mine for mine, _ in floating], [theirs for _, theirs in floating], 1 - decay)
        for mine, theirs in self._pairs:
            if not mine.is_floating_point():
                mine.copy_(theirs)

"""Averages of a network's weights and buffers, and the best of them."""

from __future__ import annotations

import copy
from typing import Any, Generic

import torch

from skdcgn_pipeline.runtime.compute import ModuleT


class WeightAverage(Generic[ModuleT]):
    """Keep `average`, a copy of a network that follows it slowly.

    The decay is smaller in the first steps, min(decay, (1 + step) / (10 + step)), so that the initial
    weights are forgotten. Running statistics of batch-norm are averaged like weights. (`AveragedModel` of
    `torch.optim.swa_utils` copies at its first step, and would average the integers of batch-norm.)

    Args:
        network: The network that is trained.
        decay: Share of the average that a step keeps; 0 makes it a plain copy.
    """

    def __init__(self, network: ModuleT, decay: float) -> None:
        self.average: ModuleT = copy.deepcopy(network).requires_grad_(False).eval()
        self.decay = decay
        pairs = [*zip(self.average.state_dict().values(), network.state_dict().values(), strict=True)]
        self._floating = [pair for pair in pairs if pair[0].is_floating_point()]
        self._counts = [pair for pair in pairs if not pair[0].is_floating_point()]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move the average towards the network after `step` steps."""
        decay = min(self.decay, (1 + step) / (10 + step))
        averages, values = zip(*self._floating, strict=True)
        torch._foreach_lerp_(averages, values, 1 - decay)
        for average, value in self._counts:
            average.copy_(value)


class BestWeights(Generic[ModuleT]):
    """Keep `network`, a copy of another one as it was when a distance was lowest.

    Args:
        network: The other one.
    """

    def __init__(self, network: ModuleT) -> None:
        self.network: ModuleT = copy.deepcopy(network)
        self.distance = float("inf")

    def offer(self, network: ModuleT, distance: float) -> None:
        """Take the weights of a network if its distance is the lowest so far."""
        if distance < self.distance:
            self.distance = distance
            self.network.load_state_dict(network.state_dict())

    def state_dict(self) -> dict[str, Any]:
        """Return the state."""
        return {"network": self.network.state_dict(), "distance": self.distance}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take a state back."""
        self.network.load_state_dict(state["network"])
        self.distance = state["distance"]

"""Learning rates by step: a schedule gives the share of the highest rate, `Rates` sets it.

Rates depend on the step alone, so a training that continues needs no state of them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from torch.optim import Optimizer

# Step, from 0 -> factor of the highest rate.
Schedule = Callable[[int], float]


def warm_up_and_cosine(num_steps: int) -> Schedule:
    """Rise linearly for 5 % of the steps, then fall by half a cosine to zero."""
    warm_up = max(1, round(0.05 * num_steps))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + math.cos(math.pi * (step - warm_up) / max(1, num_steps - warm_up)))

    return factor


def linear_decay(num_steps: int, share: float) -> Schedule:
    """Stay, then fall linearly to zero over the last share of the steps."""
    return lambda step: min(1.0, (num_steps - step) / num_steps / max(share, 1e-9))


def staircase(num_steps: int, num_drops: int) -> Schedule:
    """Fall to a tenth of the last rate in each of `num_drops` + 1 equal parts."""
    return lambda step: 0.1 ** (step * (num_drops + 1) // num_steps)


def one_cycle(
    num_steps: int, warm_up_share: float, first: float = 1 / 25, peak: float = 1.0, last: float = 4e-6
) -> Schedule:
    """Go by half a cosine from `first` to `peak`, and by another to `last`, as `torch.optim.lr_scheduler.OneCycleLR`.

    The phases are two steps long at least. With `first` and `last` 0.95 and `peak` 0.85 it is that one's momentum.
    """
    total = max(num_steps + 1, 3)
    turn, end = max(warm_up_share * total, 2.0) - 1, total - 1

    def factor(step: int) -> float:
        start, stop, share = (first, peak, step / turn) if step <= turn else (peak, last, (step - turn) / (end - turn))
        return stop + (start - stop) / 2 * (1 + math.cos(math.pi * share))

    return factor


class Rates:
    """Learning rates of optimisers, which were made with their highest.

    Args:
        schedule: Factor of the highest rate by step.
        optimisers: Whose rates are set.
        first_beta: Of those that have betas, by step; None leaves it alone.
    """

    def __init__(self, schedule: Schedule, optimisers: Sequence[Optimizer], first_beta: Schedule | None = None) -> None:
        self.schedule, self.optimisers, self.first_beta = schedule, optimisers, first_beta
        self._peaks = [[group["lr"] for group in optimiser.param_groups] for optimiser in optimisers]

    @property
    def objects(self) -> dict[str, Optimizer]:
        """What a checkpoint holds of them."""
        return {f"optimiser_{number}": optimiser for number, optimiser in enumerate(self.optimisers)}

    def set(self, step: int) -> None:
        """Set the rates of a step, from 0."""
        factor = self.schedule(step)
        for optimiser, peaks in zip(self.optimisers, self._peaks, strict=True):
            for group, peak in zip(optimiser.param_groups, peaks, strict=True):
                group["lr"] = peak * factor
                if self.first_beta is not None and "betas" in group:
                    group["betas"] = (self.first_beta(step), *group["betas"][1:])

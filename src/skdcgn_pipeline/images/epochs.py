"""Which rows each training step sees."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import torch
from torch import Tensor

from skdcgn_pipeline.runtime.errors import SettingError, check_whole
from skdcgn_pipeline.runtime.seeding import torch_generator

# (step, batch size) -> images [B, 3, H, W] in [-1, 1] and labels [B], the same for the same step.
DrawBatch = Callable[[int, int], tuple[Tensor, Tensor]]


class EpochSampler:
    """Rows of every step: each epoch is a fresh permutation that depends on (seed, purpose, epoch) alone.

    Args:
        num_rows: Rows to choose from.
        seed: Base seed.
        purpose: Word that sets these permutations apart from others.
    """

    def __init__(self, num_rows: int, seed: int, purpose: str) -> None:
        self.num_rows, self.seed, self.purpose = num_rows, seed, purpose
        self._permuted = lru_cache(maxsize=2)(self._permute)  # several threads may ask at a time

    def _permute(self, epoch: int) -> Tensor:
        """Draw the order of an epoch."""
        return torch.randperm(self.num_rows, generator=torch_generator(self.seed, self.purpose, epoch))

    def rows(self, step: int, batch_size: int) -> Tensor:
        """Return the row numbers [batch_size] of one step."""
        first = step * batch_size
        parts = []
        while batch_size:
            epoch, start = divmod(first, self.num_rows)
            part = self._permuted(epoch)[start : start + batch_size]
            parts.append(part)
            first += len(part)
            batch_size -= len(part)
        return torch.cat(parts)


class WindowSampler(EpochSampler):
    """Rows of every step, whose neighbours share row groups: for rows that are read as they are needed.

    Each epoch shuffles the groups, and spreads the rows of each over the `window` groups that follow it: a row
    comes at the turn of its group plus a number drawn from [0, window). So at any time rows of at most
    `window` + 1 groups are asked for, new groups come one by one, and after `window` more a group is through.

    Args:
        group_sizes: [G] rows of each group, which are numbered in order.
        window: Groups that a group's rows are mixed with.
        seed, purpose: As in `EpochSampler`.
    """

    def __init__(self, group_sizes: Tensor, window: int, seed: int, purpose: str) -> None:
        super().__init__(int(group_sizes.sum()), seed, purpose)
        self.group_sizes, self.window = group_sizes, window

    def _permute(self, epoch: int) -> Tensor:
        generator = torch_generator(self.seed, self.purpose, epoch)
        turns = torch.randperm(len(self.group_sizes), generator=generator).repeat_interleave(self.group_sizes)
        delays = torch.rand(self.num_rows, generator=generator, dtype=torch.float64)
        return (turns + self.window * delays).argsort(stable=True)


class RowsByClass:
    """Which rows of a pool are of which class; refuses labels [N] without one of the classes that are drawn."""

    def __init__(self, labels: Tensor, num_classes: int, classes: Tensor) -> None:
        self._rows = labels.argsort(stable=True)
        self._counts = torch.bincount(labels, minlength=num_classes)
        self._starts = self._counts.cumsum(0) - self._counts
        if (self._counts[classes] == 0).any():
            empty = classes[self._counts[classes] == 0].tolist()
            raise SettingError("pool", "images of every class", f"none of {empty}", "Draw at least one per class.")

    def draw(self, labels: Tensor, generator: torch.Generator) -> Tensor:
        """Draw one row of each class in `labels`."""
        counts = self._counts[labels]
        within = (torch.rand(len(labels), generator=generator) * counts).long().clamp_(max=counts - 1)
        return self._rows[self._starts[labels] + within]


class SharedEpoch:
    """The number of an epoch, which worker processes that live on see too."""

    def __init__(self) -> None:
        self._number = torch.zeros((), dtype=torch.long).share_memory_()

    def set(self, epoch: int) -> None:
        """Choose the epoch; refuses what is no whole number from 0 on."""
        self._number.fill_(check_whole("epoch", epoch, 0, "Count the epochs from 0."))

    def get(self) -> int:
        """Return the epoch, from 0 on."""
        return int(self._number)

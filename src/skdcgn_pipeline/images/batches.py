"""Which rows each training step sees, and batches of images drawn from memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skdcgn_pipeline.images.bias import BiasedSplit
from skdcgn_pipeline.kernels.taking import take_decoded
from skdcgn_pipeline.runtime.seeding import torch_generator

# (step, batch size) -> images [B, 3, H, W] in [-1, 1] and labels [B], the same for the same step.
DrawBatch = Callable[[int, int], tuple[Tensor, Tensor]]

# A byte b of an image is b * scale + shift.
IMAGE_SCALE, IMAGE_SHIFT = 1 / 127.5, -1.0


def from_bytes(images: Tensor) -> Tensor:
    """Turn uint8 images into floating point in [-1, 1]."""
    return images.float().mul_(IMAGE_SCALE).add_(IMAGE_SHIFT)


def take_images(images: Tensor, rows: Tensor) -> Tensor:
    """Take images [B, C, H, W] of any type out of many [N, C, H, W]; faster than indexing."""
    if not len(rows):
        return images[:0]
    return images.flatten(1).index_select(0, rows).view(len(rows), *images.shape[1:])


class EpochSampler:
    """Rows of every step: each epoch is a fresh permutation that depends on (seed, purpose, epoch) alone.

    Args:
        num_rows: Rows to choose from.
        seed: Base seed.
        purpose: Word that sets these permutations apart from others.
    """

    def __init__(self, num_rows: int, seed: int, purpose: str) -> None:
        self.num_rows, self.seed, self.purpose = num_rows, seed, purpose
        self._last = (-1, torch.empty(0, dtype=torch.long))

    def _permute(self, generator: torch.Generator) -> Tensor:
        """Draw the order of an epoch."""
        return torch.randperm(self.num_rows, generator=generator)

    def _permuted(self, epoch: int) -> Tensor:
        # Read and replaced as a whole, so that several threads may ask at a time.
        known, permutation = self._last
        if known != epoch:
            permutation = self._permute(torch_generator(self.seed, self.purpose, epoch))
            self._last = (epoch, permutation)
        return permutation

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

    def _permute(self, generator: torch.Generator) -> Tensor:
        turns = torch.randperm(len(self.group_sizes), generator=generator).repeat_interleave(self.group_sizes)
        delays = torch.rand(self.num_rows, generator=generator, dtype=torch.float64)
        return (turns + self.window * delays).argsort(stable=True)


def draw_from_split(split: BiasedSplit, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from a dataset in memory."""
    return draw_from_images(split.images, split.labels, seed, purpose)


def draw_from_images(images: Tensor, labels: Tensor, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from uint8 images [N, 3, H, W] and labels [N]."""
    sampler = EpochSampler(len(labels), seed, purpose)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        return take_decoded(images, rows, IMAGE_SCALE, IMAGE_SHIFT), labels[rows]

    return draw

"""Which rows each training step sees, and batches of images drawn from memory."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from skdcgn_pipeline.data.bias import BiasedSplit
from skdcgn_pipeline.seeding import torch_generator

# (step, batch size) -> images [B, 3, H, W] in [-1, 1] and labels [B], the same for the same step.
DrawBatch = Callable[[int, int], tuple[Tensor, Tensor]]


def from_bytes(images: Tensor) -> Tensor:
    """Turn uint8 images into floating point in [-1, 1]."""
    return images.float().mul_(1 / 127.5).sub_(1)


class EpochSampler:
    """Rows of every step: each epoch is a fresh permutation that depends on (seed, purpose, epoch) alone.

    Args:
        num_rows: Rows to choose from.
        seed: Base seed.
        purpose: Word that sets these permutations apart from others.
    """

    def __init__(self, num_rows: int, seed: int, purpose: str) -> None:
        self.num_rows, self.seed, self.purpose = num_rows, seed, purpose
        self._epoch = -1
        self._permutation = torch.empty(0, dtype=torch.long)

    def _permuted(self, epoch: int) -> Tensor:
        if epoch != self._epoch:
            generator = torch_generator(self.seed, self.purpose, epoch)
            self._permutation = torch.randperm(self.num_rows, generator=generator)
            self._epoch = epoch
        return self._permutation

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


def draw_from_split(split: BiasedSplit, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from a dataset in memory."""
    return draw_from_images(split.images, split.labels, seed, purpose)


def draw_from_images(images: Tensor, labels: Tensor, seed: int, purpose: str) -> DrawBatch:
    """Return a function that draws training batches from uint8 images [N, 3, H, W] and labels [N]."""
    sampler = EpochSampler(len(labels), seed, purpose)

    def draw(step: int, batch_size: int) -> tuple[Tensor, Tensor]:
        rows = sampler.rows(step, batch_size)
        return from_bytes(images[rows]), labels[rows]

    return draw

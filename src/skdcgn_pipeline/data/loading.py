"""Batches of a training, fetched by step and ahead of time."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from skdcgn_pipeline.data.batches import EpochSampler, take_images

Batch = tuple[Tensor, ...]
# Step -> batch on the CPU: the same for the same step, whatever was fetched before.
Fetch = Callable[[int], Batch]


class PairSource(Protocol):
    """What a student learns from, row by row; `take` may be called by several threads at a time."""

    @property
    def noise_dim(self) -> int:
        """Length of the noise."""
        ...

    @property
    def image_size(self) -> int:
        """Height and width of the images."""
        ...

    def __len__(self) -> int:
        """Return the number of rows."""
        ...

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise [B, noise_dim], labels [B] and uint8 images [B, C, H, W] of row numbers [B]."""
        ...


class _Pairs(NamedTuple):
    noise: Tensor
    labels: Tensor
    images: Tensor


class PairsInMemory:
    """Noise [N, noise_dim], labels [N] and uint8 images [N, C, H, W] in memory, as a `PairSource`."""

    def __init__(self, noise: Tensor, labels: Tensor, images: Tensor) -> None:
        self._pairs = _Pairs(noise, labels, images)
        self.noise_dim, self.image_size = noise.shape[1], images.shape[-1]

    def __len__(self) -> int:
        return len(self._pairs.labels)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise [B, noise_dim], labels [B] and uint8 images [B, C, H, W] of row numbers [B]."""
        noise, labels, images = self._pairs
        return noise[rows], labels[rows], take_images(images, rows)


def fetch_by_epochs(
    source: PairSource,
    batch_size: int,
    seed: int,
    purpose: str,
    part: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Fetch:
    """Return what fetches the batch of a step: a fresh order of all rows every epoch.

    Args:
        source: The rows.
        batch_size: Rows per step.
        seed: Base seed.
        purpose: Word that sets this order apart from others.
        part: Of a step's rows, those that are wanted here.
    """
    sampler = EpochSampler(len(source), seed, purpose)
    return lambda step: source.take(part(sampler.rows(step, batch_size)))


class BatchLoader:
    """Gives the batch of a step on a device, while threads fetch those to come.

    The batches depend on `fetch` alone: not on the number of threads, nor on which of them is faster. Close
    it, or use it in a `with` statement, so that its threads end.

    Args:
        fetch: Gives the batch of a step; called by several threads at a time where there are several.
        num_steps: Steps in all; nothing is fetched beyond.
        device: Where batches go: to a GPU from pinned memory, while it computes.
        num_threads: 0 fetches when a batch is asked for.
        num_ahead: Batches that are fetched or waiting at a time; twice the number of threads by default.
    """

    def __init__(
        self,
        fetch: Fetch,
        num_steps: int,
        device: torch.device | str = "cpu",
        num_threads: int = 0,
        num_ahead: int | None = None,
    ) -> None:
        self.fetch, self.num_steps, self.device = fetch, num_steps, torch.device(device)
        self.num_ahead = 2 * num_threads if num_ahead is None else num_ahead
        self._pool = ThreadPoolExecutor(num_threads, "fetch") if num_threads else None
        self._pending: dict[int, Future[Batch]] = {}
        self._waited = 0.0
        self._since: float | None = None

    def _fetch(self, step: int) -> Batch:
        batch = self.fetch(step)
        return tuple(part.pin_memory() for part in batch) if self.device.type == "cuda" else batch

    def _await(self, step: int) -> Batch:
        if self._pool is None:
            return self._fetch(step)
        wanted = range(step, min(step + self.num_ahead + 1, self.num_steps))
        for other in self._pending.keys() - set(wanted):
            self._pending.pop(other).cancel()
        for other in wanted:
            if other not in self._pending:
                self._pending[other] = self._pool.submit(self._fetch, other)
        return self._pending.pop(step).result()

    def __call__(self, step: int) -> Batch:
        """Return the batch of a step on the device; raises what `fetch` raises."""
        start = time.perf_counter()
        batch = self._await(step)
        now = time.perf_counter()
        if self._since is None:
            self._since = now  # the first batch could not be there before it was asked for
        else:
            self._waited += now - start
        return tuple(part.to(self.device, non_blocking=True) for part in batch)

    @property
    def data_wait(self) -> float:
        """Share of the time since the first batch in which a step waited for its own, in [0, 1].

        On a GPU, which may still compute meanwhile, it is an upper bound of what the data costs.
        """
        elapsed = 0.0 if self._since is None else time.perf_counter() - self._since
        return self._waited / elapsed if elapsed else 0.0

    def close(self) -> None:
        """Let the threads end; what they have not begun is not fetched."""
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

    def __enter__(self) -> BatchLoader:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

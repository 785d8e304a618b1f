"""Batches of a training, fetched by step and ahead of time."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from skdcgn_pipeline.images.epochs import EpochSampler, WindowSampler
from skdcgn_pipeline.samples.drawing import SampleShards, columns_of, pairs_of
from skdcgn_pipeline.samples.shards import RowGroups
from skdcgn_pipeline.vocabulary import COMPOSITE, MECHANISMS, channels_of

logger = logging.getLogger(__name__)

# Images of one mechanism of more bytes are read as they are needed instead of into memory.
STREAMED_BEYOND_BYTES = 4 * 2**30
# What is kept of them then, at most: they are kept as they are stored, and take less where they are encoded.
KEPT_BYTES = 2**30
# Of the row groups that are kept, those that rows are mixed over; the others are for batches fetched ahead.
MIXED_SHARE = 0.8

Batch = tuple[Tensor, ...]
# Step -> batch on the CPU: the same for the same step, whatever was fetched before.
Fetch = Callable[[int], Batch]


@dataclass(frozen=True)
class PairsInMemory:
    """What a student learns from, row by row; `take` may be called by several threads at a time.

    Attributes:
        noise: [N, noise_dim].
        labels: [N].
        images: uint8 [N, C, H, W].
    """

    noise: Tensor
    labels: Tensor
    images: Tensor

    def __len__(self) -> int:
        return len(self.labels)

    def order(self, seed: int, purpose: str) -> EpochSampler:
        """Return an order in which any row may follow any other."""
        return EpochSampler(len(self), seed, purpose)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return noise [B, noise_dim], labels [B] and uint8 images [B, C, H, W] of row numbers [B]."""
        return self.noise[rows], self.labels[rows], self.images.index_select(0, rows)


class StreamedPairs:
    """The same of samples of one mechanism, or composites of them, that are read as they are needed.

    Memory stays at `KEPT_BYTES`, in each process that trains.

    Attributes:
        groups: The row groups that rows are taken from.
        layout: What the order depends on besides the number of rows of each shard; JSON-able.
    """

    def __init__(self, samples: SampleShards, mechanism: str) -> None:
        self._samples, self._mechanism = samples, mechanism
        self._group_sizes = torch.tensor([group.num_rows for group in samples.row_groups()])
        largest = int(self._group_sizes.max())
        parts = MECHANISMS if mechanism == COMPOSITE else [mechanism]
        bytes_per_row = sum(map(channels_of, parts)) * samples.image_size**2
        most = max(2, KEPT_BYTES // (largest * bytes_per_row))
        self.groups = RowGroups(samples, columns_of(mechanism), most)
        self.layout = {"rows_per_group": largest, "mixed_groups": int(most * MIXED_SHARE)}

    def __len__(self) -> int:
        return self._samples.num_rows

    def order(self, seed: int, purpose: str) -> EpochSampler:
        """Return an order whose neighbours share row groups."""
        return WindowSampler(self._group_sizes, self.layout["mixed_groups"], seed, purpose)

    def take(self, rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """As `PairsInMemory.take`; raises `DamagedFileError`, naming the shard that is damaged."""
        return pairs_of(self._mechanism, self.groups.take(rows.numpy()))


PairSource = PairsInMemory | StreamedPairs


def _bytes_to_stream(samples: SampleShards, mechanism: str) -> int:
    """Return the bytes of images that are many enough to be read as they are needed, else 0."""
    num_bytes = samples.num_rows * channels_of(mechanism) * samples.image_size**2
    return num_bytes if num_bytes > STREAMED_BEYOND_BYTES else 0


def open_pairs(samples: SampleShards, mechanism: str) -> PairSource:
    """Read what one student learns from into memory, or as it is needed where it is much; raises as `stream_parts`.

    Args:
        samples: Of the teacher.
        mechanism: shape, texture, background or `COMPOSITE`.
    """
    if num_bytes := _bytes_to_stream(samples, mechanism):
        logger.info("%s: %.1f GiB of images are read as they are needed", mechanism, num_bytes / 2**30)
        return StreamedPairs(samples, mechanism)
    return PairsInMemory(*samples.read_pairs(mechanism))


def identity_of_order(samples: SampleShards, mechanism: str) -> dict[str, Any]:
    """Return what `open_pairs` adds to the identity of a training: nothing where rows are in memory."""
    return {"order": StreamedPairs(samples, mechanism).layout} if _bytes_to_stream(samples, mechanism) else {}


def fetch_by_epochs(
    source: PairSource,
    batch_size: int,
    seed: int,
    purpose: str,
    part: Callable[[Tensor], Tensor] = lambda rows: rows,
) -> Fetch:
    """Return what fetches the batch of a step: a fresh order of all rows every epoch, see `order` of the source.

    Args:
        source: The rows.
        batch_size: Rows per step.
        seed: Base seed.
        purpose: Word that sets this order apart from others.
        part: Of a step's rows, those that are wanted here.
    """
    sampler = source.order(seed, purpose)
    return lambda step: source.take(part(sampler.rows(step, batch_size)))


class BatchLoader(AbstractContextManager):
    """Gives the batch of a step on a device, while threads fetch those to come.

    The batches depend on `fetch` alone: not on the number of threads, nor on which of them is faster. At the end of a
    `with` statement its threads end; what they have not begun is not fetched.

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

    def __exit__(self, *error: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)

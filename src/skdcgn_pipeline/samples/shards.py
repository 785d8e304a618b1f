"""Rows streamed into Parquet shards, and read back: one mechanism for samples and counterfactuals."""

from __future__ import annotations

import logging
import shutil
from abc import abstractmethod
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain, groupby
from operator import itemgetter
from pathlib import Path
from threading import Lock
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import numpy as np
import pyarrow as pa

from skdcgn_pipeline.artifacts.recipe import Recipe
from skdcgn_pipeline.artifacts.store import Artifact, ArtifactWriter, check_writable
from skdcgn_pipeline.parameters import ImageEncoding
from skdcgn_pipeline.runtime.progress import Progress, stop_requested
from skdcgn_pipeline.runtime.threads import once
from skdcgn_pipeline.samples.columns import (
    RAW,
    named_damage,
    read_groups,
    read_stored,
    rows_of_first_group,
    to_arrays,
    to_table,
    write_parts,
)

logger = logging.getLogger(__name__)

SHARDS_FILE = "shards.json"
RANGES = "ranges"  # where single shards that are drawn elsewhere wait
# Blocks that are computed before they are needed, where images are encoded.
BLOCKS_AHEAD = 2
# No row with images takes less, however it is encoded.
FEWEST_BYTES_PER_ROW = 100

Columns = dict[str, np.ndarray]
T = TypeVar("T")
ResultT = TypeVar("ResultT")


def shard_name(number: int) -> str:
    """Return the file name of a shard."""
    return f"shard-{number:05d}.parquet"


def ahead(items: Iterable[T], count: int) -> Generator[T]:
    """Yield items in order while a thread computes up to `count` of the next; its errors come out in their place."""
    iterator, end = iter(items), object()
    with ThreadPoolExecutor(1) as thread:
        waiting = deque(thread.submit(next, iterator, end) for _ in range(count))
        try:
            while (item := waiting.popleft().result()) is not end:
                waiting.append(thread.submit(next, iterator, end))
                yield item  # type: ignore[misc]
        finally:
            thread.shutdown(cancel_futures=True)


@dataclass(frozen=True)
class BlockRows:
    """Any ranges of rows, computed by whole blocks whose content depends on the block's number alone.

    Attributes:
        compute_block: Block number -> columns of `rows_per_block` rows.
        rows_per_block: Rows of every block.
        storing: How images are stored. Where they are encoded, blocks are computed in one thread and their images
            encoded in others; a few are in memory at a time.
    """

    compute_block: Callable[[int], Columns]
    rows_per_block: int
    storing: ImageEncoding = RAW

    def rows(self, spans: Sequence[range]) -> Generator[tuple[int, pa.Table]]:
        """Yield the rows of ascending spans in parts, each with the number of its span."""
        size = self.rows_per_block
        wanted = [
            (span, block, max(rows.start - block * size, 0), min(rows.stop - block * size, size))
            for span, rows in enumerate(spans)
            for block in range(rows.start // size, -(-rows.stop // size))
        ]
        # Two neighbouring spans may share a block, which is computed once.
        numbers = list(dict.fromkeys(block for _, block, _, _ in wanted))
        with closing(self._blocks(numbers)) as blocks:
            current = -1
            for span, block, first, last in wanted:
                if block != current:
                    current, table = block, next(blocks)
                yield span, table.slice(first, last - first)

    def _blocks(self, numbers: Sequence[int]) -> Generator[pa.Table]:
        computed = map(self.compute_block, numbers)
        if self.storing.encoding == "raw":
            yield from map(to_table, computed)
            return
        with (
            ThreadPoolExecutor(self.storing.encoding_threads) as pool,
            closing(ahead(computed, BLOCKS_AHEAD)) as blocks,
        ):
            for block in blocks:
                yield to_table(block, self.storing, pool.map)


class Plan(NamedTuple):
    """What shards are written.

    Attributes:
        title: What the progress is called.
        num_rows: Rows of all shards.
        bytes_per_row: What a row takes on disk; None measures the first block.
        properties: Further entries of the index.
        remedy: What to do where the disk cannot hold the rows.
    """

    title: str
    num_rows: int
    bytes_per_row: float | None
    properties: Mapping[str, Any] = MappingProxyType({})
    remedy: str = "Free some space, ask for fewer images or choose another data root."


class ShardsRecipe(Recipe[ResultT]):
    """Rows that are streamed into shards.

    Memory stays at a few blocks of rows and one row group, whatever the size of the shards. A killed run continues
    with the next missing shard; a damaged shard is named and made again.

    Attributes:
        rows_per_shard: Rows of each shard but the last.
        shard_range: [first, last): only these of all shards are written, and listed in the index.
        draw_elsewhere: (folder, numbers) -> makes the shards with these numbers, each as an artifact of its range in
            the folder; None makes them here.
    """

    rows_per_shard: int
    shard_range: tuple[int, int] | None = None
    draw_elsewhere: Callable[[Path, Sequence[int]], None] | None = None

    @abstractmethod
    def plan(self) -> Plan:
        """Return what shards are written."""

    @abstractmethod
    def open_rows(self, store: Path) -> BlockRows:
        """Return what makes the rows; only called when a shard is missing. `store` is the folder of the kind."""

    def alike(self, store: Path) -> Sequence[Artifact]:
        """Return artifacts whose shards of the same name are the same, and taken over."""
        return ()

    def build(self, writer: ArtifactWriter) -> None:
        """Write the shards that are missing or damaged, then the index.

        Raises:
            SettingError: If the disk cannot hold the missing shards.
            InterruptedRunError: If a stop was requested; finished shards are kept.
        """
        plan = self.plan()
        numbers = range(-(-plan.num_rows // self.rows_per_shard))[slice(*(self.shard_range or (None,)))]
        missing = self._missing(writer, numbers, plan)
        spans = {n: range(n * self.rows_per_shard, min((n + 1) * self.rows_per_shard, plan.num_rows)) for n in numbers}
        total, to_do = (sum(len(spans[number]) for number in some) for some in (numbers, missing))
        progress = Progress(plan.title, total, "rows", total - to_do)
        if missing:
            if stop_requested():
                progress.interrupt()
            if plan.bytes_per_row is not None:
                _check_space(writer, plan, to_do, plan.bytes_per_row)
        if len(missing) > 1 and self.draw_elsewhere is not None:
            ranges = writer.scratch(RANGES)
            self.draw_elsewhere(ranges, missing)
            drawn = self.alike(ranges)
            missing = [number for number in missing if not writer.take_over(shard_name(number), drawn)]
        if missing:
            with closing(self.open_rows(writer.directory.parent).rows([spans[number] for number in missing])) as rows:
                first = next(rows)
                if plan.bytes_per_row is None:
                    _check_space(writer, plan, to_do, first[1].nbytes / len(first[1]))
                for place, parts in groupby(chain([first], rows), key=itemgetter(0)):
                    number = missing[place]
                    writer.write(shard_name(number), partial(write_parts, parts=map(itemgetter(1), parts)))
                    progress.advance(len(spans[number]))
                    if number != missing[-1] and stop_requested():
                        progress.interrupt()
        progress.finish()
        shards = [{"name": shard_name(number), "num_rows": len(spans[number])} for number in numbers]
        writer.write_json(SHARDS_FILE, {**plan.properties, "shards": shards})

    def _missing(self, writer: ArtifactWriter, numbers: range, plan: Plan) -> list[int]:
        """Return the numbers of shards that are neither there nor to be had from artifacts alike."""
        others = [*self.alike(writer.directory.parent), *self.alike(writer.scratch(RANGES))]
        # Asked before the shards are looked at one by one: of too many there is not even room for a list.
        num_known = len(writer.files) + sum(len(other.manifest["files"]) for other in others)
        least = (len(numbers) - 1 - num_known) * self.rows_per_shard * (plan.bytes_per_row or FEWEST_BYTES_PER_ROW)
        check_writable(writer.directory, max(0, round(least)), plan.remedy)
        names = ((number, shard_name(number)) for number in numbers)
        return [number for number, name in names if not writer.has(name) and not writer.take_over(name, others)]


def _check_space(writer: ArtifactWriter, plan: Plan, num_rows: int, bytes_per_row: float) -> None:
    """Say what rows need on disk, and refuse where it cannot hold them."""
    needed, free = round(num_rows * bytes_per_row), shutil.disk_usage(writer.directory).free
    logger.info(
        f"{plan.title}: {num_rows:,} rows of about {bytes_per_row:,.0f} bytes need about {needed / 2**20:,.0f} MiB; "
        f"{free / 2**20:,.0f} MiB are free"
    )
    check_writable(writer.directory, needed, plan.remedy)


class Shards:
    """Rows in Parquet shards.

    Attributes:
        artifact: Where they are stored.
        index: Names and row counts of the shards, and what else the writer noted.
        num_rows: Rows of all shards.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.index: dict[str, Any] = artifact.read_json(SHARDS_FILE)
        self.num_rows: int = sum(shard["num_rows"] for shard in self.index["shards"])

    def stream_parts(self, names: Sequence[str]) -> Iterator[Columns]:
        """Read columns a few MiB at a time, in memory that does not grow with the shards.

        Raises:
            DamagedFileError: Naming the shard that is unreadable, lacks a column or has other rows.
        """
        for shard in self.index["shards"]:
            yield from read_groups(self.artifact.path(shard["name"]), names, shard["num_rows"])

    def read(self, *names: str) -> Columns:
        """Read columns of all shards into memory; raises like `stream_parts`."""
        return self.gather(self.stream_parts(names))

    def gather(self, parts: Iterable[Columns]) -> Columns:
        """Put parts of as many rows as there are one after the other, in memory for them and one part."""
        columns: Columns = {}
        first = 0
        for part in parts:
            for name, values in part.items():
                if name not in columns:
                    columns[name] = np.empty((self.num_rows, *values.shape[1:]), values.dtype)
                columns[name][first : first + len(values)] = values
            first += len(values)
        return columns

    def row_groups(self) -> list[RowGroup]:
        """Return the row groups in order; each has as many rows as the first one, fewer where a shard ends."""
        shards = [(self.artifact.path(shard["name"]), shard["num_rows"]) for shard in self.index["shards"]]
        size = rows_of_first_group(shards[0][0])
        return [
            RowGroup(path, number, min(size, num_rows - first), num_rows)
            for path, num_rows in shards
            for number, first in enumerate(range(0, num_rows, size))
        ]

    def take(self, rows: np.ndarray, *names: str) -> Columns:
        """Read some rows, in the order asked for, without decoding others' images; see `RowGroups.take`."""
        return RowGroups(self, names, 0).take(rows)


class RowGroup(NamedTuple):
    """A row group: its file, its number there, its rows, and those of the file."""

    path: Path
    number: int
    num_rows: int
    rows_of_shard: int


class RowGroups:
    """Rows of shards in any order; the row groups that were read last are kept, images as they are stored.

    A whole row group, of up to 8 MiB of images, is read for any of its rows.

    Args:
        shards: Where from.
        names: The columns.
        most: Row groups that are kept.
    """

    def __init__(self, shards: Shards, names: Sequence[str], most: int) -> None:
        self.groups, self.names, self.most = shards.row_groups(), tuple(names), most
        self._lasts = np.cumsum([group.num_rows for group in self.groups])
        self._kept: dict[int, Callable[[], pa.Table]] = {}
        self._lock = Lock()

    def _stored(self, number: int) -> pa.Table:
        """Return a group as it is stored, which one thread reads while others that ask for it wait."""
        path, within, _, rows_of_shard = self.groups[number]
        with self._lock:
            read = self._kept.get(number) or once(lambda: read_stored(path, self.names, within, rows_of_shard))
            self._kept[number] = read
            while len(self._kept) > self.most:
                del self._kept[next(iter(self._kept))]  # the one that was read first
        return read()

    def take(self, rows: np.ndarray) -> Columns:
        """Return some rows, in the order asked for; in the calling thread, and several may do so at once.

        Args:
            rows: [B] row numbers in 0 .. num_rows - 1.

        Raises:
            IndexError: If there is no such row.
            DamagedFileError: Naming the shard that is unreadable, lacks a column or has other rows.
        """
        rows, num_rows = np.asarray(rows, np.int64), int(self._lasts[-1])
        if len(rows) and not (rows.min() >= 0 and rows.max() < num_rows):
            raise IndexError(f"expected rows 0 to {num_rows - 1}, got {rows.min()} to {rows.max()}")
        groups = np.searchsorted(self._lasts, rows, side="right")
        columns: Columns = {}
        for number in np.unique(groups):
            places, first = groups == number, self._lasts[number] - self.groups[number].num_rows
            with named_damage(self.groups[number].path):
                table = self._stored(int(number)).take(pa.array(rows[places] - first)).combine_chunks()
                taken = to_arrays(table, by_threads=False)
            for name, values in taken.items():
                if name not in columns:
                    columns[name] = np.empty((len(rows), *values.shape[1:]), values.dtype)
                columns[name][places] = values
        return columns

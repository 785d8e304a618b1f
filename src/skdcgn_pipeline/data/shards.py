"""Rows streamed into Parquet shards, and read back: one mechanism for samples and counterfactuals."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from skdcgn_pipeline.artifacts import Artifact, ArtifactWriter
from skdcgn_pipeline.data.columns import read_columns, write_columns
from skdcgn_pipeline.progress import Progress, stop_requested

SHARDS_FILE = "shards.json"
Columns = dict[str, np.ndarray]


class BlockRows:
    """Any range of rows, computed by whole blocks whose content depends on the block's number alone.

    The last block is kept, since two neighbouring shards may share it.

    Args:
        compute_block: Block number -> columns of `rows_per_block` rows.
        rows_per_block: Rows of every block.
    """

    def __init__(self, compute_block: Callable[[int], Columns], rows_per_block: int) -> None:
        self.compute_block, self.rows_per_block = compute_block, rows_per_block
        self._last: tuple[int, Columns] = (-1, {})

    def _block(self, block: int) -> Columns:
        if self._last[0] != block:
            self._last = (block, self.compute_block(block))
        return self._last[1]

    def rows(self, first: int, last: int) -> Columns:
        """Return the columns of rows first .. last - 1."""
        parts = []
        for block in range(first // self.rows_per_block, -(-last // self.rows_per_block)):
            start = block * self.rows_per_block
            within = slice(max(first - start, 0), min(last - start, self.rows_per_block))
            parts.append({name: values[within] for name, values in self._block(block).items()})
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


def write_shards(
    writer: ArtifactWriter,
    title: str,
    num_rows: int,
    rows_per_shard: int,
    source: Callable[[], BlockRows],
    properties: dict[str, Any],
) -> None:
    """Write the shards that are missing or damaged, then the index.

    Args:
        writer: Where to.
        title: Shown in the progress.
        num_rows: Rows of all shards.
        rows_per_shard: Rows of each but the last.
        source: Makes the rows; only called when a shard is missing.
        properties: Further entries of the index.

    Raises:
        InterruptedRunError: If a stop was requested; finished shards are kept.
    """
    firsts = range(0, num_rows, rows_per_shard)
    shards: list[dict[str, Any]] = [
        {"name": f"shard-{number:05d}.parquet", "num_rows": min(rows_per_shard, num_rows - first)}
        for number, first in enumerate(firsts)
    ]
    missing = [number for number, shard in enumerate(shards) if not writer.has(shard["name"])]
    progress = Progress(title, num_rows, "rows", num_rows - sum(shards[number]["num_rows"] for number in missing))
    rows = source() if missing else None
    for number in missing:
        if stop_requested():
            progress.interrupt()
        assert rows is not None
        shard = shards[number]
        columns = rows.rows(firsts[number], firsts[number] + shard["num_rows"])
        writer.write(shard["name"], partial(write_columns, columns=columns))
        progress.advance(shard["num_rows"])
    progress.finish()
    writer.write_json(SHARDS_FILE, {**properties, "shards": shards})


class Shards:
    """Rows in Parquet shards.

    Attributes:
        artifact: Where they are stored.
        index: Names and row counts of the shards, and what else the writer noted.
    """

    def __init__(self, artifact: Artifact) -> None:
        self.artifact = artifact
        self.index: dict[str, Any] = artifact.read_json(SHARDS_FILE)

    @property
    def num_rows(self) -> int:
        """Rows of all shards."""
        return sum(shard["num_rows"] for shard in self.index["shards"])

    def stream(self, names: Sequence[str]) -> Iterator[Columns]:
        """Read columns shard by shard.

        Raises:
            DamagedFileError: Naming the shard that is unreadable, lacks a column or has other rows.
        """
        for shard in self.index["shards"]:
            yield read_columns(self.artifact.path(shard["name"]), names, shard["num_rows"])

    def read(self, *names: str) -> Columns:
        """Read columns of all shards into memory; raises like `stream`."""
        parts = list(self.stream(names))
        return {name: np.concatenate([part[name] for part in parts]) for name in names}

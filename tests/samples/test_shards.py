"""Rows in shards: the same whatever the shards are, and damage names the shard."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skdcgn_pipeline.artifacts.recipe import build_in
from skdcgn_pipeline.artifacts.store import Artifact
from skdcgn_pipeline.runtime import progress
from skdcgn_pipeline.runtime.errors import DamagedFileError, InterruptedRunError
from skdcgn_pipeline.samples.shards import BlockRows, Plan, Shards, ShardsRecipe

ROWS_PER_BLOCK = 4


def block_of_squares(block: int) -> dict[str, np.ndarray]:
    rows = np.arange(block * ROWS_PER_BLOCK, (block + 1) * ROWS_PER_BLOCK)
    return {"row": rows, "square": rows**2}


class Squares(ShardsRecipe[Artifact]):
    kind = "squares"

    def __init__(self, num_rows: int, rows_per_shard: int) -> None:
        self.num_rows, self.rows_per_shard = num_rows, rows_per_shard

    def inputs(self) -> dict[str, int]:
        return {"num_rows": self.num_rows, "rows_per_shard": self.rows_per_shard}

    def plan(self) -> Plan:
        return Plan("squares", self.num_rows, None, {"kind": "squares"})

    def open_rows(self, store: Path) -> BlockRows:
        return BlockRows(block_of_squares, ROWS_PER_BLOCK)

    def read(self, artifact: Artifact) -> Artifact:
        return artifact


def build(store: Path, num_rows: int, rows_per_shard: int) -> Artifact:
    return build_in(store, Squares(num_rows, rows_per_shard))


@pytest.mark.parametrize(("first", "last"), [(0, 1), (0, 4), (3, 5), (2, 11), (5, 7)])
def test_any_range_of_rows_comes_from_whole_blocks(first, last):
    parts = [part for _, part in BlockRows(block_of_squares, ROWS_PER_BLOCK).rows([range(first, last)])]
    assert np.concatenate([part["row"] for part in parts]).tolist() == list(range(first, last))
    assert np.concatenate([part["square"] for part in parts]).tolist() == [row**2 for row in range(first, last)]


def test_a_block_that_two_shards_share_is_computed_once():
    computed = []

    def count(block: int) -> dict[str, np.ndarray]:
        computed.append(block)
        return block_of_squares(block)

    rows = BlockRows(count, ROWS_PER_BLOCK)
    parts = list(rows.rows([range(first, first + 3) for first in range(0, 12, 3)]))
    assert computed == [0, 1, 2]
    assert [span for span, _ in parts] == [0, 1, 1, 2, 2, 3]


@pytest.mark.parametrize("rows_per_shard", [1, 3, 4, 10, 100])
def test_rows_do_not_depend_on_the_size_of_the_shards(tmp_path, rows_per_shard):
    shards = Shards(build(tmp_path, 10, rows_per_shard))
    assert shards.num_rows == 10
    assert shards.read("square", "row")["square"].tolist() == [row**2 for row in range(10)]
    sizes = [len(part["row"]) for part in shards.stream_parts(["row"])]
    assert all(size == rows_per_shard for size in sizes[:-1])


def test_the_index_keeps_what_the_writer_noted(tmp_path):
    assert Shards(build(tmp_path, 10, 4)).index["kind"] == "squares"


def test_a_request_to_stop_keeps_nothing_half_written(tmp_path):
    progress.request_stop()
    with pytest.raises(InterruptedRunError, match=r"squares: stopped at 0 of 10 rows.*Repeat the same command"):
        build(tmp_path, 10, 4)
    progress.clear_stop()
    assert Shards(build(tmp_path, 10, 4)).num_rows == 10


def test_a_damaged_shard_is_named_when_it_is_read(tmp_path):
    artifact = build(tmp_path, 10, 4)
    path = artifact.path("shard-00001.parquet")
    path.write_bytes(path.read_bytes()[:-10])
    stream = Shards(artifact).stream_parts(["row"])
    assert next(stream)["row"].tolist() == [0, 1, 2, 3]
    with pytest.raises(DamagedFileError, match=r"shard-00001\.parquet"):
        next(stream)


def test_a_flipped_byte_is_named_when_the_artifact_is_opened(tmp_path):
    artifact = build(tmp_path, 10, 4)
    path = artifact.path("shard-00002.parquet")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=r"shard-00002\.parquet"):
        Artifact.open(artifact.directory)


def test_a_shard_with_other_rows_is_named(tmp_path):
    artifact = build(tmp_path, 10, 4)
    artifact.path("shard-00000.parquet").write_bytes(artifact.path("shard-00002.parquet").read_bytes())
    with pytest.raises(DamagedFileError, match=r"shard-00000\.parquet: expected 4 rows, got 2"):
        Shards(artifact).read("row")


def test_a_column_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DamagedFileError, match="got no cube"):
        Shards(build(tmp_path, 10, 4)).read("row", "cube")

"""Arrays come back from Parquet as they went in, and damage is named."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skdcgn_pipeline.parameters import ImageEncoding
from skdcgn_pipeline.runtime.errors import DamagedFileError
from skdcgn_pipeline.samples.columns import (
    FEWEST_ROW_GROUP_ROWS,
    ROW_GROUP_ROWS,
    read_columns,
    read_groups,
    read_stored,
    rows_of_first_group,
    to_arrays,
    to_table,
    write_columns,
    write_parts,
)


def make_columns(num_rows: int = 7) -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {
        "row": np.arange(num_rows),
        "collision": np.arange(num_rows) % 2 == 0,
        "score": generator.standard_normal(num_rows).astype(np.float64),
        "noise": generator.standard_normal((num_rows, 4)).astype(np.float32),
        "offset": generator.integers(-5, 5, (num_rows, 2)).astype(np.int16),
        "rows": generator.integers(0, 99, (num_rows, 3)),
        "mask": generator.integers(0, 256, (num_rows, 1, 6, 5)).astype(np.uint8),
    }


@pytest.fixture
def stored(tmp_path):
    path = tmp_path / "part.parquet"
    write_columns(path, make_columns())
    return path


@pytest.mark.parametrize("num_rows", [1, 7, ROW_GROUP_ROWS + 3])
def test_arrays_come_back_with_type_shape_and_values(tmp_path, num_rows):
    columns = make_columns(num_rows)
    write_columns(tmp_path / "part.parquet", columns)
    read = read_columns(tmp_path / "part.parquet", list(columns), num_rows)
    for name, values in columns.items():
        assert read[name].dtype == values.dtype
        assert np.array_equal(read[name], values)


def test_no_rows_come_back_as_no_rows(tmp_path):
    columns = {name: values[:0] for name, values in make_columns().items()}
    write_columns(tmp_path / "part.parquet", columns)
    read = read_columns(tmp_path / "part.parquet", list(columns), 0)
    assert {name: values.shape for name, values in read.items()} == {n: v.shape for n, v in columns.items()}


def test_arrays_that_are_not_contiguous_are_stored_by_value(tmp_path):
    mask = make_columns()["mask"].transpose(0, 1, 3, 2)[::2]
    write_columns(tmp_path / "part.parquet", {"mask": mask})
    assert np.array_equal(read_columns(tmp_path / "part.parquet", ["mask"])["mask"], mask)


def test_only_the_columns_asked_for_are_read(stored):
    assert list(read_columns(stored, ["noise", "row"])) == ["noise", "row"]


def test_the_same_content_gives_identical_bytes(tmp_path, stored):
    write_columns(tmp_path / "again.parquet", make_columns())
    assert (tmp_path / "again.parquet").read_bytes() == stored.read_bytes()


def test_other_tools_can_read_the_file(stored):
    frame = pd.read_parquet(stored)
    assert frame["row"].tolist() == list(range(7))
    assert np.frombuffer(frame["mask"][3], np.uint8).tolist() == make_columns()["mask"][3].reshape(-1).tolist()


def test_a_missing_column_is_named_with_the_file(stored):
    with pytest.raises(DamagedFileError, match=re.escape(str(stored)) + ".*got no labels"):
        read_columns(stored, ["row", "labels"])


def test_another_number_of_rows_is_refused_with_the_file(stored):
    with pytest.raises(DamagedFileError, match=re.escape(str(stored)) + ": expected 8 rows, got 7"):
        read_columns(stored, ["row"], 8)


@pytest.mark.parametrize("keep", [0, 3, 0.5, 0.99])
def test_a_truncated_file_is_named(stored, keep):
    content = stored.read_bytes()
    stored.write_bytes(content[: keep if isinstance(keep, int) else int(keep * len(content))])
    with pytest.raises(DamagedFileError, match=re.escape(str(stored))):
        read_columns(stored, ["row"])


def test_an_absent_file_is_named(tmp_path):
    with pytest.raises(DamagedFileError, match=r"nothing\.parquet"):
        read_columns(tmp_path / "nothing.parquet", ["row"])


def test_a_flipped_byte_never_passes_as_other_values(tmp_path):
    columns = {name: values for name, values in make_columns(40).items() if name in ("noise", "mask", "row")}
    path = tmp_path / "part.parquet"
    write_columns(path, columns)
    content = path.read_bytes()
    unnoticed, messages = [], []
    for position in range(0, len(content), 41):
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(bytes(damaged))
        try:
            read = read_columns(path, list(columns), 40)
        except DamagedFileError as error:
            messages.append(str(error))
        else:
            if not all(np.array_equal(read[name], values) for name, values in columns.items()):
                unnoticed.append(position)
    assert unnoticed == []
    assert messages
    assert all(str(path) in message for message in messages)


def test_a_parquet_file_of_another_writer_is_named(tmp_path):
    path = tmp_path / "foreign.parquet"
    pq.write_table(pa.table({"row": [1, 2, 3]}), path)
    with pytest.raises(DamagedFileError, match=r"foreign\.parquet"):
        read_columns(path, ["row"])


RAW, PNG = ImageEncoding(), ImageEncoding(encoding="png")


def test_encoded_images_come_back_decoded(tmp_path):
    write_parts(tmp_path / "part.parquet", [to_table(make_columns(40), PNG)])
    read = read_columns(tmp_path / "part.parquet", ["mask", "row"], 40)
    assert np.array_equal(read["mask"], make_columns(40)["mask"])


@pytest.mark.parametrize("rows_per_part", [1, 7, 64, 5000])
@pytest.mark.parametrize("how", [RAW, PNG], ids=["raw", "encoded"])
def test_the_bytes_do_not_depend_on_the_parts_that_columns_come_in(tmp_path, how, rows_per_part):
    num_rows = ROW_GROUP_ROWS + 90
    columns = make_columns(num_rows)
    write_parts(tmp_path / "whole.parquet", [to_table(columns, how)])
    starts = range(0, num_rows, rows_per_part)
    parts = (
        to_table({name: values[first : first + rows_per_part] for name, values in columns.items()}, how)
        for first in starts
    )
    write_parts(tmp_path / "parts.parquet", parts)
    assert (tmp_path / "parts.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_columns_are_written_as_parquet_would_write_them_at_once(tmp_path):
    # Files of earlier versions keep their checksums.
    num_rows = 2 * ROW_GROUP_ROWS + 5
    noise = make_columns(num_rows)["noise"]
    metadata = {"row_shape": "[4]", "dtype": "<f4"}
    values = pa.FixedSizeListArray.from_arrays(pa.array(noise.reshape(-1)), 4)
    table = pa.Table.from_arrays(
        [values], schema=pa.schema([pa.field("noise", values.type, nullable=False, metadata=metadata)])
    )
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_page_checksum": True}
    pq.write_table(table, tmp_path / "table.parquet", row_group_size=ROW_GROUP_ROWS, **options)
    write_columns(tmp_path / "columns.parquet", {"noise": noise})
    assert (tmp_path / "columns.parquet").read_bytes() == (tmp_path / "table.parquet").read_bytes()


def test_large_images_are_read_a_few_at_a_time(tmp_path):
    images = np.zeros((40, 3, 512, 512), np.uint8)
    images[:, 0, 0, 0] = np.arange(40)
    for how in (RAW, ImageEncoding(encoding="jpeg")):
        write_parts(tmp_path / "part.parquet", [to_table({"images": images}, how)])
        sizes = [len(part["images"]) for part in read_groups(tmp_path / "part.parquet", ["images"], 40)]
        assert sizes == [FEWEST_ROW_GROUP_ROWS, FEWEST_ROW_GROUP_ROWS, 8]


@pytest.mark.parametrize("how", [RAW, PNG], ids=["raw", "encoded"])
@pytest.mark.parametrize(("group", "rows"), [(0, range(ROW_GROUP_ROWS)), (1, range(1000, 1090))])
def test_stored_rows_are_taken_in_the_order_asked_for(tmp_path, how, group, rows):
    num_rows = ROW_GROUP_ROWS + 90
    path = tmp_path / "part.parquet"
    write_parts(path, [to_table(make_columns(num_rows), how)])
    assert rows_of_first_group(path) == ROW_GROUP_ROWS
    stored = read_stored(path, ["mask", "row"], group, num_rows)
    within = np.array([7, 3, len(rows) - 1, 3, 0])
    taken = to_arrays(stored.take(within))
    assert len(stored) == len(rows)
    assert np.array_equal(taken["row"], rows.start + within)
    assert np.array_equal(taken["mask"], make_columns(num_rows)["mask"][rows.start + within])


def test_stored_images_take_the_memory_of_their_encoding(tmp_path):
    images = np.zeros((20, 3, 64, 64), np.uint8)
    write_parts(tmp_path / "part.parquet", [to_table({"images": images}, PNG)])
    assert read_stored(tmp_path / "part.parquet", ["images"], 0).nbytes < images.nbytes / 10


def test_damage_is_named_by_every_way_of_reading(tmp_path):
    path = tmp_path / "part.parquet"
    write_columns(path, make_columns(40))
    content = bytearray(path.read_bytes())
    content[100] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(DamagedFileError, match=r"part\.parquet"):
        list(read_groups(path, list(make_columns())))
    with pytest.raises(DamagedFileError, match=r"part\.parquet"):
        read_stored(path, list(make_columns()), 0)
    with pytest.raises(DamagedFileError, match="expected 41 rows, got 40"):
        read_stored(path, ["row"], 0, 41)

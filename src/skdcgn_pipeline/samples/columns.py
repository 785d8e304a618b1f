"""NumPy arrays as Parquet columns: fixed-size binary for uint8 images, fixed-size lists for vectors.

Encoded images are binary of any length. The shape of a row is kept in the column's metadata, so an array
comes back as it went in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skdcgn_pipeline.parameters import ImageEncoding
from skdcgn_pipeline.runtime.errors import DamagedFileError
from skdcgn_pipeline.samples.encoding import decode, decoding_threads, encode

# A row group is what a reader has in memory at a time: up to so many rows, fewer where they are large.
ROW_GROUP_ROWS = 1000
FEWEST_ROW_GROUP_ROWS = 16
ROW_GROUP_BYTES = 8 * 2**20  # after decoding

RAW = ImageEncoding()


def _to_arrow(values: np.ndarray) -> pa.Array:
    values = np.ascontiguousarray(values)
    if values.ndim == 1:
        return pa.array(values)
    row_size = math.prod(values.shape[1:])
    if values.dtype == np.uint8:
        return pa.Array.from_buffers(pa.binary(row_size), len(values), [None, pa.py_buffer(values)])
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), row_size)


def to_table(columns: Mapping[str, np.ndarray], how: ImageEncoding = RAW, over: Callable[..., Any] = map) -> pa.Table:
    """Return arrays of equal length as columns of Arrow.

    Args:
        columns: Arrays by name; those [N, C, H, W] are images, of bytes.
        how: How images are stored.
        over: See `encoding.encode`.
    """
    images = [name for name, values in columns.items() if values.ndim == 4 and how.encoding != "raw"]
    encoded = {name: encode(columns[name], how, over) for name in images}  # all at a time, where threads do it
    arrays, fields = [], []
    for name, values in columns.items():
        arrays.append(pa.array(encoded[name], pa.large_binary()) if name in encoded else _to_arrow(values))
        metadata = {"row_shape": json.dumps(values.shape[1:]), "dtype": values.dtype.str}
        fields.append(pa.field(name, arrays[-1].type, nullable=False, metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _shape_and_type(field: pa.Field) -> tuple[tuple[int, ...], np.dtype]:
    """Return the shape of a row and the type of its values."""
    return tuple(json.loads(field.metadata[b"row_shape"])), np.dtype(field.metadata[b"dtype"].decode())


def _to_numpy(column: pa.ChunkedArray, field: pa.Field, over: Callable[..., Any]) -> np.ndarray:
    row_shape, dtype = _shape_and_type(field)
    parts = []
    for chunk in column.chunks:
        if pa.types.is_large_binary(chunk.type):
            values = decode(chunk.to_pylist(), row_shape, over)
        elif pa.types.is_fixed_size_binary(chunk.type):
            width = chunk.type.byte_width
            values = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        elif pa.types.is_fixed_size_list(chunk.type):
            values = chunk.flatten().to_numpy(zero_copy_only=False)
        else:
            values = chunk.to_numpy(zero_copy_only=False)
        parts.append(values.astype(dtype, copy=False).reshape(len(chunk), *row_shape))
    return np.concatenate(parts) if parts else np.empty((0, *row_shape), dtype)


def _rows_per_group(schema: pa.Schema) -> int:
    known = map(_shape_and_type, schema)
    bytes_per_row = sum(math.prod(row_shape) * dtype.itemsize for row_shape, dtype in known)
    return max(FEWEST_ROW_GROUP_ROWS, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(1, bytes_per_row)))


def _regrouped(parts: Iterable[pa.Table], size: int) -> Iterator[pa.Table]:
    """Cut and join parts into row groups."""
    waiting: list[pa.Table] = []
    num_rows = 0
    for part in parts:
        waiting.append(part)
        num_rows += len(part)
        if num_rows >= size:
            table = pa.concat_tables(waiting)
            whole = num_rows - num_rows % size
            yield from (table.slice(first, size) for first in range(0, whole, size))
            waiting, num_rows = [table.slice(whole)], num_rows - whole
    if num_rows:
        yield pa.concat_tables(waiting)


def write_parts(path: Path, parts: Iterable[pa.Table]) -> None:
    """Write parts of a table, at least one, as one Parquet file.

    The bytes depend on the content alone, not on how it is cut into parts. Memory stays at a row group and a
    part.
    """
    parts = iter(parts)
    first = next(parts)
    options = {"compression": "zstd", "compression_level": 1, "use_dictionary": False, "write_page_checksum": True}
    with pq.ParquetWriter(path, first.schema, **options) as file:
        for group in _regrouped(chain([first], parts), _rows_per_group(first.schema)):
            file.write_table(group.combine_chunks(), group.num_rows)


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write arrays of equal length as one Parquet file; the bytes depend only on the content."""
    write_parts(path, [to_table(columns)])


@contextmanager
def named_damage(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into one error that names it."""
    try:
        yield
    except DamagedFileError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, "a readable Parquet file", error) from error


def _damaged(path: Path, expected: str, got: object) -> DamagedFileError:
    return DamagedFileError(f"{path}: expected {expected}, got {got}. Run the stage that makes it again.")


@contextmanager
def _opened(path: Path, names: Sequence[str] = (), num_rows: int | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file, which is memory-mapped, and check that it has these columns and as many rows."""
    with named_damage(path), pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
        if missing := [name for name in names if name not in file.schema_arrow.names]:
            raise _damaged(path, f"the columns {', '.join(names)}", f"no {', '.join(missing)}")
        if num_rows not in (None, file.metadata.num_rows):
            raise _damaged(path, f"{num_rows} rows", file.metadata.num_rows)
        yield file


def to_arrays(table: pa.Table, by_threads: bool = True) -> dict[str, np.ndarray]:
    """Return columns as arrays, images decoded by threads or by the calling one."""
    with ThreadPoolExecutor(decoding_threads()) as pool:
        over = pool.map if by_threads else map
        return {field.name: _to_numpy(table.column(field.name), field, over) for field in table.schema}


def read_columns(path: Path, names: Sequence[str], num_rows: int | None = None) -> dict[str, np.ndarray]:
    """Read columns back as arrays; encoded images come back decoded.

    Args:
        path: A file written by `write_columns` or `write_parts`.
        names: The columns to read; only these are read from disk.
        num_rows: How many rows the file must have, where known.

    Raises:
        DamagedFileError: Naming the file, when it is unreadable, a column is missing or the row
            count is wrong.
    """
    with _opened(path, names, num_rows) as file:
        return to_arrays(file.read(columns=list(names), use_threads=False).select(names))


def read_groups(path: Path, names: Sequence[str], num_rows: int | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Read columns row group by row group, a few MiB at a time; as `read_columns` otherwise."""
    with _opened(path, names, num_rows) as file:
        for group in range(file.num_row_groups):
            yield to_arrays(file.read_row_group(group, columns=list(names), use_threads=False).select(names))


def rows_of_first_group(path: Path) -> int:
    """Return how many rows the first row group of a file has; all but the last of a file have as many."""
    with _opened(path) as file:
        return file.metadata.row_group(0).num_rows


def read_stored(path: Path, names: Sequence[str], group: int, num_rows: int | None = None) -> pa.Table:
    """Read a row group without decoding it; as `read_columns` otherwise. Several threads may do so at once."""
    with _opened(path, names, num_rows) as file:
        return file.read_row_group(group, columns=list(names), use_threads=False)

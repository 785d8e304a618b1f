"""NumPy arrays as Parquet columns: fixed-size binary for uint8 images, fixed-size lists for vectors.

Encoded images are binary of any length. The shape of a row is kept in the column's metadata, so an array
comes back as it went in.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skdcgn_pipeline.runtime.errors import DamagedFileError
from skdcgn_pipeline.samples.encoding import EncodedImages, decode, decoding_threads

# A row group is what a reader has in memory at a time: up to so many rows, fewer where they are large.
ROW_GROUP_ROWS = 1000
FEWEST_ROW_GROUP_ROWS = 16
ROW_GROUP_BYTES = 8 * 2**20  # after decoding
FOOTERS_IN_MEMORY = 256

Column = np.ndarray | EncodedImages


def joined(parts: Sequence[Mapping[str, Column]]) -> Mapping[str, Column]:
    """Put parts of columns one after the other."""
    return parts[0] if len(parts) == 1 else {name: _join([part[name] for part in parts]) for name in parts[0]}


def _join(parts: Sequence[Any]) -> Column:
    if isinstance(parts[0], EncodedImages):
        return EncodedImages(tuple(chain.from_iterable(part.values for part in parts)), parts[0].row_shape)
    return np.concatenate(parts)


def _to_arrow(values: Column) -> tuple[pa.Array, dict[str, str]]:
    if isinstance(values, EncodedImages):
        metadata = {"row_shape": json.dumps(values.row_shape), "dtype": np.dtype(np.uint8).str}
        return pa.array(values.values, pa.large_binary()), metadata
    values = np.ascontiguousarray(values)
    row_shape = values.shape[1:]
    metadata = {"row_shape": json.dumps(row_shape), "dtype": values.dtype.str}
    if values.ndim == 1:
        return pa.array(values), metadata
    row_size = int(np.prod(row_shape))
    if values.dtype == np.uint8:
        return pa.Array.from_buffers(pa.binary(row_size), len(values), [None, pa.py_buffer(values)]), metadata
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), row_size), metadata


def _to_numpy(column: pa.ChunkedArray, field: pa.Field, num_threads: int) -> np.ndarray:
    row_shape = tuple(json.loads(field.metadata[b"row_shape"]))
    dtype = np.dtype(field.metadata[b"dtype"].decode())
    parts = []
    for chunk in column.chunks:
        if pa.types.is_large_binary(chunk.type):
            values = decode(chunk.to_pylist(), row_shape, num_threads)
        elif pa.types.is_fixed_size_binary(chunk.type):
            width = chunk.type.byte_width
            values = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        elif pa.types.is_fixed_size_list(chunk.type):
            values = chunk.flatten().to_numpy(zero_copy_only=False)
        else:
            values = chunk.to_numpy(zero_copy_only=False)
        parts.append(values.astype(dtype, copy=False).reshape(len(chunk), *row_shape))
    return np.concatenate(parts) if parts else np.empty((0, *row_shape), dtype)


def _to_table(columns: Mapping[str, Column]) -> pa.Table:
    arrays, fields = [], []
    for name, values in columns.items():
        array, metadata = _to_arrow(values)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=False, metadata=metadata))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _rows_per_group(columns: Mapping[str, Column]) -> int:
    bytes_per_row = sum(
        math.prod(values.row_shape)
        if isinstance(values, EncodedImages)
        else values.itemsize * math.prod(values.shape[1:])
        for values in columns.values()
    )
    return max(FEWEST_ROW_GROUP_ROWS, min(ROW_GROUP_ROWS, ROW_GROUP_BYTES // max(1, bytes_per_row)))


def _regrouped(parts: Iterable[Mapping[str, Column]]) -> Iterator[Mapping[str, Column]]:
    """Cut and join parts into row groups; at least one, which may be empty."""
    waiting: list[Mapping[str, Column]] = []
    num_rows = size = num_groups = 0
    for part in parts:
        size = size or _rows_per_group(part)
        waiting.append(part)
        num_rows += len(next(iter(part.values())))
        if num_rows >= size:
            group = joined(waiting)
            whole = num_rows - num_rows % size
            for first in range(0, whole, size):
                yield {name: values[first : first + size] for name, values in group.items()}
            waiting = [{name: values[whole:] for name, values in group.items()}]
            num_rows, num_groups = num_rows - whole, num_groups + whole // size
    if num_rows or not num_groups:
        yield joined(waiting)


def write_parts(path: Path, parts: Iterable[Mapping[str, Column]]) -> None:
    """Write columns that come in parts as one Parquet file.

    The bytes depend on the content alone, not on how it is cut into parts. Memory stays at a row group and a
    part.
    """
    groups = _regrouped(parts)
    table = _to_table(next(groups))
    with pq.ParquetWriter(
        path,
        table.schema,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_page_checksum=True,
    ) as file:
        for group in chain([table], map(_to_table, groups)):
            file.write_table(group, max(1, group.num_rows))


def write_columns(path: Path, columns: Mapping[str, Column]) -> None:
    """Write arrays of equal length as one Parquet file; the bytes depend only on the content."""
    write_parts(path, [columns])


@contextmanager
def _named_damage(path: Path) -> Iterator[None]:
    """Turn what a damaged file raises into one error that names it."""
    try:
        yield
    except DamagedFileError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise _damaged(path, "a readable Parquet file", error) from error


def _damaged(path: Path, expected: str, got: object) -> DamagedFileError:
    return DamagedFileError(f"{path}: expected {expected}, got {got}. Run the stage that makes it again.")


@lru_cache(FOOTERS_IN_MEMORY)
def _footer(path: Path, version: tuple[int, int]) -> pq.FileMetaData:
    """Return a file's footer; reading one takes longer than reading a row."""
    return pq.read_metadata(path, memory_map=True)


@contextmanager
def _opened(path: Path, names: Sequence[str] = (), num_rows: int | None = None) -> Iterator[pq.ParquetFile]:
    """Open a file, which is memory-mapped, and check that it has these columns and as many rows."""
    with _named_damage(path):
        status = path.stat()
        footer = _footer(path, (status.st_mtime_ns, status.st_size))
        with pq.ParquetFile(path, metadata=footer, memory_map=True, page_checksum_verification=True) as file:
            if missing := [name for name in names if name not in file.schema_arrow.names]:
                raise _damaged(path, f"the columns {', '.join(names)}", f"no {', '.join(missing)}")
            if num_rows not in (None, footer.num_rows):
                raise _damaged(path, f"{num_rows} rows", footer.num_rows)
            yield file


def _arrays(table: pa.Table, num_threads: int | None = None) -> dict[str, np.ndarray]:
    threads = decoding_threads() if num_threads is None else num_threads
    return {field.name: _to_numpy(table.column(field.name), field, threads) for field in table.schema}


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
        return _arrays(file.read(columns=list(names), use_threads=False).select(names))


def read_groups(path: Path, names: Sequence[str], num_rows: int | None = None) -> Iterator[dict[str, np.ndarray]]:
    """Read columns row group by row group, a few MiB at a time; as `read_columns` otherwise."""
    with _opened(path, names, num_rows) as file:
        for group in range(file.num_row_groups):
            yield _arrays(file.read_row_group(group, columns=list(names), use_threads=False).select(names))


@dataclass(frozen=True)
class StoredRows:
    """Rows in memory as they are stored: encoded images stay encoded until they are taken."""

    path: Path
    table: pa.Table

    def __len__(self) -> int:
        return self.table.num_rows

    def take(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """Return some rows, by number within these, as arrays; decodes in the calling thread.

        Raises:
            DamagedFileError: If an image cannot be decoded.
        """
        with _named_damage(self.path):
            return _arrays(self.table.take(pa.array(rows)).combine_chunks(), 1)


def rows_of_first_group(path: Path) -> int:
    """Return how many rows the first row group of a file has; all but the last of a file have as many."""
    with _opened(path) as file:
        return file.metadata.row_group(0).num_rows


def read_stored(path: Path, names: Sequence[str], group: int, num_rows: int | None = None) -> StoredRows:
    """Read a row group without decoding it; as `read_columns` otherwise. Several threads may do so at once."""
    with _opened(path, names, num_rows) as file:
        return StoredRows(path, file.read_row_group(group, columns=list(names), use_threads=False))

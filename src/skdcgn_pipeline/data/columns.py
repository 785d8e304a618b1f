"""NumPy arrays as Parquet columns: fixed-size binary for uint8 images, fixed-size lists for vectors.

The shape of a row is kept in the column's metadata, so an array comes back as it went in.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from skdcgn_pipeline.errors import DamagedFileError

ROW_GROUP_ROWS = 1000


def _to_arrow(values: np.ndarray) -> tuple[pa.Array, dict[str, str]]:
    values = np.ascontiguousarray(values)
    row_shape = values.shape[1:]
    metadata = {"row_shape": json.dumps(row_shape), "dtype": values.dtype.str}
    if values.ndim == 1:
        return pa.array(values), metadata
    row_size = int(np.prod(row_shape))
    if values.dtype == np.uint8:
        return pa.Array.from_buffers(pa.binary(row_size), len(values), [None, pa.py_buffer(values)]), metadata
    return pa.FixedSizeListArray.from_arrays(pa.array(values.reshape(-1)), row_size), metadata


def _to_numpy(column: pa.ChunkedArray, field: pa.Field) -> np.ndarray:
    row_shape = tuple(json.loads(field.metadata[b"row_shape"]))
    dtype = np.dtype(field.metadata[b"dtype"].decode())
    parts = []
    for chunk in column.chunks:
        if pa.types.is_fixed_size_binary(chunk.type):
            width = chunk.type.byte_width
            values = np.frombuffer(chunk.buffers()[1], np.uint8, len(chunk) * width, chunk.offset * width)
        elif pa.types.is_fixed_size_list(chunk.type):
            values = chunk.flatten().to_numpy(zero_copy_only=False)
        else:
            values = chunk.to_numpy(zero_copy_only=False)
        parts.append(values.astype(dtype, copy=False).reshape(len(chunk), *row_shape))
    return np.concatenate(parts) if parts else np.empty((0, *row_shape), dtype)


def write_columns(path: Path, columns: Mapping[str, np.ndarray]) -> None:
    """Write arrays of equal length as one Parquet file; the bytes depend only on the content."""
    arrays, fields = [], []
    for name, values in columns.items():
        array, metadata = _to_arrow(values)
        arrays.append(array)
        fields.append(pa.field(name, array.type, nullable=False, metadata=metadata))
    table = pa.Table.from_arrays(arrays, schema=pa.schema(fields))
    pq.write_table(
        table,
        path,
        row_group_size=ROW_GROUP_ROWS,
        compression="zstd",
        compression_level=1,
        use_dictionary=False,
        write_page_checksum=True,
    )


def read_columns(path: Path, names: Sequence[str], num_rows: int | None = None) -> dict[str, np.ndarray]:
    """Read columns back as arrays.

    Args:
        path: A file written by `write_columns`.
        names: The columns to read; only these are read from disk.
        num_rows: How many rows the file must have, where known.

    Raises:
        DamagedFileError: Naming the file, when it is unreadable, a column is missing or the row
            count is wrong.
    """
    remedy = "Run the stage that makes it again."
    try:
        # The file is memory-mapped and only the asked columns are decoded.
        with pq.ParquetFile(path, memory_map=True, page_checksum_verification=True) as file:
            missing = [name for name in names if name not in file.schema_arrow.names]
            if missing:
                raise DamagedFileError(
                    f"{path}: expected the columns {', '.join(names)}, got no {', '.join(missing)}. {remedy}"
                )
            if num_rows is not None and file.metadata.num_rows != num_rows:
                raise DamagedFileError(f"{path}: expected {num_rows} rows, got {file.metadata.num_rows}. {remedy}")
            table = file.read(columns=list(names), use_threads=False)
            schema = file.schema_arrow
        return {name: _to_numpy(table.column(name), schema.field(name)) for name in names}
    except DamagedFileError:
        raise
    except (OSError, pa.ArrowException, ValueError, TypeError, KeyError) as error:
        raise DamagedFileError(f"{path}: expected a readable Parquet file, got {error}. {remedy}") from error

"""numpy arrays as Arrow columns and back, without copies.

pyarrow's own conversions import pandas whenever it is installed, which costs most of a second in every process that
renders or reads; these go through the buffers and do not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa

__all__ = [
    "ArrowBatch",
    "ArrowColumn",
    "ArrowSchema",
    "bits",
    "bytes_column",
    "compact",
    "list_column",
    "numbers",
    "strings",
    "to_numpy",
    "validity",
]

# pyarrow ships no type stubs, so a type checker knows none of its types.
ArrowBatch: TypeAlias = Any
"""`pyarrow.RecordBatch`."""
ArrowColumn: TypeAlias = Any
"""`pyarrow.Array`."""
ArrowSchema: TypeAlias = Any
"""`pyarrow.Schema`."""

_TYPES = {
    np.dtype(np.int8): pa.int8(),
    np.dtype(np.int16): pa.int16(),
    np.dtype(np.int32): pa.int32(),
    np.dtype(np.int64): pa.int64(),
    np.dtype(np.float32): pa.float32(),
}
_DTYPES = {kind: dtype for dtype, kind in _TYPES.items()}


def numbers(values: npt.NDArray[Any]) -> ArrowColumn:
    """A column without nulls over a one-dimensional array's own memory."""
    buffer = pa.py_buffer(np.ascontiguousarray(values))
    return pa.Array.from_buffers(_TYPES[values.dtype], len(values), [None, buffer])


def to_numpy(column: ArrowColumn) -> npt.NDArray[Any]:
    """A read-only view of a number column's memory, nulls ignored: (len(column),)."""
    dtype = _DTYPES[column.type]
    buffer = column.buffers()[1]
    if buffer is None or not len(column):
        return np.empty(0, dtype)
    return np.frombuffer(buffer, dtype, len(column), column.offset * dtype.itemsize)


def bits(values: npt.NDArray[np.bool_]) -> ArrowColumn:
    """A boolean column."""
    buffer = pa.py_buffer(np.packbits(values, bitorder="little"))
    return pa.Array.from_buffers(pa.bool_(), len(values), [None, buffer])


def validity(column: ArrowColumn) -> npt.NDArray[np.bool_] | None:
    """Which values are not null, (len(column),); None when all are."""
    if not column.null_count:
        return None
    stored = np.frombuffer(column.buffers()[0], np.uint8)
    flags = np.unpackbits(stored, count=column.offset + len(column), bitorder="little")
    return flags[column.offset :].astype(np.bool_)


def strings(values: Sequence[str | None]) -> ArrowColumn:
    """A string column; None becomes null, a lone surrogate (as in file names that are not UTF-8) an escape."""
    encoded = [b"" if value is None else value.encode("utf-8", "backslashreplace") for value in values]
    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in encoded], out=offsets[1:])
    nulls = values.count(None)
    present = np.array([value is not None for value in values], np.bool_)
    bitmap = pa.py_buffer(np.packbits(present, bitorder="little")) if nulls else None
    buffers = [bitmap, pa.py_buffer(offsets), pa.py_buffer(b"".join(encoded))]
    return pa.Array.from_buffers(pa.string(), len(values), buffers, nulls)


def bytes_column(rows: npt.NDArray[np.uint8]) -> ArrowColumn:
    """uint8 (n, k) as n values of k bytes."""
    buffers = [None, pa.py_buffer(np.ascontiguousarray(rows))]
    return pa.Array.from_buffers(pa.binary(rows.shape[1]), len(rows), buffers)


def compact(column: ArrowColumn) -> ArrowColumn:
    """The same column over exactly the bytes it needs, without copying numbers and text.

    Arrow writes whatever a slice's buffers hold beyond it into a file; of this, equal columns give equal bytes.
    """
    kind, size = column.type, len(column)
    valid = validity(column)
    bitmap = None if valid is None else pa.py_buffer(np.packbits(valid, bitorder="little"))
    children: list[ArrowColumn] | None = None
    buffers: list[Any] = [bitmap]
    if kind in _DTYPES:
        buffers.append(pa.py_buffer(to_numpy(column)))
    elif pa.types.is_fixed_size_binary(kind):
        width = kind.byte_width
        buffers.append(column.buffers()[1].slice(column.offset * width, size * width))
    elif pa.types.is_string(kind):
        offsets = np.frombuffer(column.buffers()[1], np.int32, size + 1, column.offset * 4)
        text = column.buffers()[2] or pa.py_buffer(b"")
        buffers.append(pa.py_buffer(offsets - offsets[0]))
        buffers.append(text.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))
    elif pa.types.is_list(kind):
        offsets = to_numpy(column.offsets)
        buffers.append(pa.py_buffer(offsets - offsets[0]))
        children = [compact(column.values.slice(int(offsets[0]), int(offsets[-1] - offsets[0])))]
    elif pa.types.is_struct(kind):
        children = [compact(column.field(i)) for i in range(kind.num_fields)]
    else:
        raise TypeError(f"compact: no rule for {kind}")
    return pa.Array.from_buffers(kind, size, buffers, column.null_count, children=children)


def list_column(
    values: ArrowColumn, offsets: npt.NDArray[np.int64], valid: npt.NDArray[np.bool_] | None = None
) -> ArrowColumn:
    """A list column over a flat one, row i being values[offsets[i]:offsets[i + 1]]; null where `valid` is False."""
    mask = None if valid is None or valid.all() else bits(~valid)
    return pa.ListArray.from_arrays(numbers(offsets.astype(np.int32)), values, mask=mask)

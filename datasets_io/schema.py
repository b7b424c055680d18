"""Arrow schema <-> rows, both ways, nothing else.

One row per example, shifted. Columns that a text datum always has come first; `RowLayout` says which optional ones
follow: a `loss.<name>` per further loss input, a `shape.<name>` for every input that is not always one-dimensional
(null where it is), and `images`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from renderers import InputError, UserError

from .arrow_numpy import ArrowBatch, ArrowColumn, ArrowSchema, list_column, numbers, strings
from .rows import ROW_HASH_BYTES, ImageRef, Row

__all__ = [
    "BASE_COLUMNS",
    "FORMAT_VERSION",
    "RowLayout",
    "images_struct",
    "layout_of",
    "rows_to_batch",
    "schema_of",
    "segments_column",
]

FORMAT_VERSION = 1
"""Version of the columns and of `manifest.json`; a reader refuses versions it does not know."""
_VERSION_KEY = b"datumloom.format"

LossDtype = Literal["float32", "int64"]

_SEGMENT = pa.struct([("start", pa.int32()), ("message", pa.int16()), ("role", pa.int8())])
_IMAGE = pa.struct([
    ("position", pa.int32()),
    ("length", pa.int32()),
    ("format", pa.string()),
    ("location", pa.string()),
])  # fmt: skip
BASE_COLUMNS: tuple[tuple[str, Any, bool], ...] = (
    # name, type, nullable
    ("tokens", pa.list_(pa.int32()), False),
    ("target_tokens", pa.list_(pa.int32()), True),
    ("weights", pa.list_(pa.float32()), True),
    ("segments", pa.list_(_SEGMENT), True),
    ("source", pa.dictionary(pa.int32(), pa.string()), False),
    ("line", pa.int64(), False),
    ("turn", pa.int16(), False),
    ("example", pa.int16(), False),
    ("conversation_id", pa.string(), True),
    ("pair", pa.string(), True),
    ("side", pa.string(), True),
    ("row_hash", pa.binary(ROW_HASH_BYTES), True),
    ("num_tokens", pa.int32(), False),
    ("num_trained", pa.int32(), False),
)
_LOSS_TYPES: dict[LossDtype, Any] = {"float32": pa.float32(), "int64": pa.int64()}
_INT16 = np.iinfo(np.int16)


@dataclass(frozen=True)
class RowLayout:
    """The optional columns of a shard; the default is what rendering writes.

    Attributes:
        losses: further loss inputs, (name, dtype), sorted by name.
        shaped: names among `target_tokens`, `weights` and `losses` that have a shape column, sorted.
        images: whether there is an `images` column.
    """

    losses: tuple[tuple[str, LossDtype], ...] = ()
    shaped: tuple[str, ...] = ()
    images: bool = False

    @classmethod
    def of(cls, rows: Iterable[Row]) -> RowLayout:
        """The least layout that holds all of `rows`.

        Raises:
            InputError: one loss input is float32 in one row and int64 in another.
        """
        losses: dict[str, LossDtype] = {}
        shaped: set[str] = set()
        images = False
        for row in rows:
            images = images or bool(row.images)
            shaped.update(name for name, array in _inputs(row).items() if array is not None and array.ndim != 1)
            for name, array in row.losses.items():
                dtype: LossDtype = "float32" if array.dtype.kind == "f" else "int64"
                if losses.setdefault(name, dtype) != dtype:
                    raise InputError(
                        f"loss_fn_inputs.{name}",
                        "mixed_dtype",
                        f"expected {losses[name]} as in other rows; got {dtype}",
                    )
        return cls(tuple(sorted(losses.items())), tuple(sorted(shaped)), images)


def schema_of(layout: RowLayout) -> ArrowSchema:
    """The Arrow schema of a layout, with the format version in its metadata."""
    fields = [pa.field(name, kind, nullable) for name, kind, nullable in BASE_COLUMNS]
    fields += [pa.field(f"loss.{name}", pa.list_(_LOSS_TYPES[dtype])) for name, dtype in layout.losses]
    fields += [pa.field(f"shape.{name}", pa.list_(pa.int32())) for name in layout.shaped]
    if layout.images:
        fields.append(pa.field("images", pa.list_(_IMAGE)))
    return pa.schema(fields, metadata={_VERSION_KEY: str(FORMAT_VERSION).encode()})


def layout_of(schema: ArrowSchema) -> RowLayout:
    """The layout of a shard's schema.

    Raises:
        UserError: the schema is not one `schema_of` gives: another version, a missing or unknown column or type.
    """
    version = (schema.metadata or {}).get(_VERSION_KEY, b"none").decode()
    if version != str(FORMAT_VERSION):
        raise UserError(f"schema: expected format version {FORMAT_VERSION}; got {version}")
    losses: list[tuple[str, LossDtype]] = []
    for arrow_field in schema:
        if arrow_field.name.startswith("loss."):
            dtype: LossDtype = "float32" if arrow_field.type == pa.list_(pa.float32()) else "int64"
            losses.append((arrow_field.name.removeprefix("loss."), dtype))
    shaped = tuple(name.removeprefix("shape.") for name in schema.names if name.startswith("shape."))
    layout = RowLayout(tuple(losses), shaped, "images" in schema.names)
    for got, expected in zip(schema, schema_of(layout), strict=False):
        if got.name != expected.name or got.type != expected.type:
            raise UserError(f"schema: expected column {expected.name}: {expected.type}; got {got.name}: {got.type}")
    if len(schema) != len(schema_of(layout)):
        raise UserError(f"schema: expected {len(schema_of(layout))} columns; got {len(schema)}")
    return layout


def segments_column(
    start: npt.NDArray[np.int32],
    message: npt.NDArray[np.int16],
    role: npt.NDArray[np.int8],
    offsets: npt.NDArray[np.int64],
    valid: npt.NDArray[np.bool_] | None = None,
) -> ArrowColumn:
    """The `segments` column from flat runs and where each row's begin; null where `valid` is False."""
    columns = [numbers(start), numbers(message), numbers(role)]
    return list_column(pa.StructArray.from_arrays(columns, fields=list(_SEGMENT)), offsets, valid)


def images_struct(images: Sequence[ImageRef]) -> ArrowColumn:
    """Image references, one after another, as the values of the `images` column."""
    columns = [
        numbers(np.array([image.position for image in images], np.int32)),
        numbers(np.array([image.length for image in images], np.int32)),
        strings([image.format for image in images]),
        strings([image.location for image in images]),
    ]
    return pa.StructArray.from_arrays(columns, fields=list(_IMAGE))


def rows_to_batch(rows: Sequence[Row], layout: RowLayout | None = None) -> ArrowBatch:
    """Rows as a record batch of `schema_of(layout)`.

    Args:
        rows: any number.
        layout: `RowLayout.of(rows)` when None.

    Raises:
        InputError: a row does not fit the layout or a column's range.
    """
    layout = layout or RowLayout.of(rows)
    for row in rows:
        _check_fits(row, layout)
    columns = [
        _arrays_column([row.tokens for row in rows], np.int32),
        _arrays_column([row.target_tokens for row in rows], np.int32),
        _arrays_column([row.weights for row in rows], np.float32),
        _segments(rows),
        strings([row.provenance.source for row in rows]).dictionary_encode(),
        *(
            pa.array([getattr(row.provenance, name) for row in rows], kind)
            for name, kind, _ in BASE_COLUMNS
            if name in ("line", "turn", "example", "conversation_id", "pair", "side", "row_hash")
        ),
        pa.array([row.num_tokens for row in rows], pa.int32()),
        pa.array([row.num_trained for row in rows], pa.int32()),
        *(_arrays_column([row.losses.get(name) for row in rows], np.dtype(dtype)) for name, dtype in layout.losses),
        *(_shapes(rows, name) for name in layout.shaped),
    ]
    if layout.images:
        columns.append(pa.array([[image._asdict() for image in row.images] for row in rows], pa.list_(_IMAGE)))
    return pa.RecordBatch.from_arrays(columns, schema=schema_of(layout))


def _inputs(row: Row) -> dict[str, npt.NDArray[Any] | None]:
    return {"target_tokens": row.target_tokens, "weights": row.weights, **row.losses}


def _check_fits(row: Row, layout: RowLayout) -> None:
    dtypes = dict(layout.losses)
    for name, array in _inputs(row).items():
        if array is not None and array.ndim != 1 and name not in layout.shaped:
            raise InputError(
                f"loss_fn_inputs.{name}", "unexpected_shape", f"expected one dimension; got shape {array.shape}"
            )
    for name, array in row.losses.items():
        if dtypes.get(name) != array.dtype.name:
            raise InputError(
                f"loss_fn_inputs.{name}",
                "unexpected_loss_input",
                f"expected one of {dtypes or 'none'}; got {array.dtype.name}",
            )
    if row.images and not layout.images:
        raise InputError("model_input", "unexpected_image", "expected text only, as the layout says; got an image")
    for name in ("turn", "example"):
        value = getattr(row.provenance, name)
        if not _INT16.min <= value <= _INT16.max:
            raise InputError(name, "out_of_range", f"expected a number within int16; got {value}")


def _arrays_column(arrays: Sequence[npt.NDArray[Any] | None], dtype: npt.DTypeLike) -> ArrowColumn:
    flat = [np.empty(0, dtype) if array is None else array.ravel() for array in arrays]
    values = np.concatenate(flat) if flat else np.empty(0, dtype)
    present = np.array([array is not None for array in arrays], np.bool_)
    return list_column(numbers(values.astype(dtype, copy=False)), _offsets(flat), present)


def _segments(rows: Sequence[Row]) -> ArrowColumn:
    known = [row.segments for row in rows if row.segments is not None]
    starts = [np.empty(0, np.int32) if row.segments is None else row.segments.start for row in rows]
    return segments_column(
        np.concatenate([np.empty(0, np.int32), *starts]),
        np.concatenate([np.empty(0, np.int16), *(segments.message for segments in known)]),
        np.concatenate([np.empty(0, np.int8), *(segments.role for segments in known)]),
        _offsets(starts),
        np.array([row.segments is not None for row in rows], np.bool_),
    )


def _shapes(rows: Sequence[Row], name: str) -> ArrowColumn:
    arrays = [_inputs(row).get(name) for row in rows]
    shapes = [None if array is None or array.ndim == 1 else list(array.shape) for array in arrays]
    return pa.array(shapes, pa.list_(pa.int32()))


def _offsets(arrays: Sequence[npt.NDArray[Any]]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum([len(array) for array in arrays], dtype=np.int64)])

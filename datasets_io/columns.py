"""Reading a record batch row by row: numpy views of its buffers, made once per column and batch."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from .arrow_numpy import ArrowBatch, to_numpy, validity
from .rows import ImageRef, Provenance, Row, Segments
from .schema import layout_of

__all__ = ["BatchView", "ListView"]

_PROVENANCE = tuple(Provenance.__dataclass_fields__)


class ListView(NamedTuple):
    """A list column as numpy: flat values, int32 offsets (num_rows + 1,), and which rows are not null (None: all)."""

    values: npt.NDArray[Any]
    offsets: npt.NDArray[np.int32]
    valid: npt.NDArray[np.bool_] | None

    def row(self, index: int) -> npt.NDArray[Any] | None:
        """The values of one row, a view; None where null."""
        if self.valid is not None and not self.valid[index]:
            return None
        return self.values[self.offsets[index] : self.offsets[index + 1]]


class BatchView:
    """Rows of one record batch, no copies of token-sized data. Safe to use from several threads.

    Args:
        batch: of a schema that `schema_of` gives.

    Raises:
        UserError: the schema is another.
    """

    def __init__(self, batch: ArrowBatch) -> None:
        self.batch = batch
        self.layout = layout_of(batch.schema)
        self.num_rows: int = batch.num_rows
        # Filled on first use. Two threads may both make a view; both are right and the last one stays.
        self._lists: dict[str, ListView] = {}
        self._segments: tuple[ListView, ...] | None = None
        self._image_offsets = to_numpy(batch.column("images").offsets) if self.layout.images else np.empty(0, np.int32)
        self.tokens = self.list_view("tokens")

    def list_view(self, name: str) -> ListView:
        """A list column of numbers as numpy views."""
        view = self._lists.get(name)
        if view is None:
            column = self.batch.column(name)
            view = ListView(to_numpy(column.values), to_numpy(column.offsets), validity(column))
            self._lists[name] = view
        return view

    def numbers(self, name: str) -> npt.NDArray[Any]:
        """A plain number column as a numpy view, (num_rows,)."""
        return to_numpy(self.batch.column(name))

    def present(self, name: str) -> npt.NDArray[np.bool_]:
        """Which rows have a value in a column, (num_rows,)."""
        valid = validity(self.batch.column(name))
        return np.ones(self.num_rows, np.bool_) if valid is None else valid

    def one_dimensional(self, name: str) -> npt.NDArray[np.bool_]:
        """Which rows have `target_tokens` or `weights` in one dimension, (num_rows,); False where they have none."""
        plain = self.present(name)
        return plain & ~self.present(f"shape.{name}") if name in self.layout.shaped else plain

    def row(self, index: int) -> Row:
        """Row `index` whole."""
        row = self.inputs(index)
        row.segments = self.segments(index)
        row.provenance = self.provenance(index)
        return row

    def inputs(self, index: int) -> Row:
        """Row `index` without its segments and provenance: all that a `Datum` needs."""
        tokens = self.list_view("tokens").row(index)
        assert tokens is not None  # not nullable
        losses = {name: self._shaped(name, f"loss.{name}", index) for name, _ in self.layout.losses}
        return Row(
            tokens=tokens,
            target_tokens=self._shaped("target_tokens", "target_tokens", index),
            weights=self._shaped("weights", "weights", index),
            losses={name: array for name, array in losses.items() if array is not None},
            images=self.images(index),
        )

    def segments(self, index: int) -> Segments | None:
        """Message runs of row `index`; None where not known."""
        if self._segments is None:
            column = self.batch.column("segments")
            offsets, valid, runs = to_numpy(column.offsets), validity(column), column.values
            self._segments = tuple(ListView(to_numpy(runs.field(n)), offsets, valid) for n in Segments._fields)
        start, message, role = (view.row(index) for view in self._segments)
        return None if start is None or message is None or role is None else Segments(start, message, role)

    def images(self, index: int) -> tuple[ImageRef, ...]:
        """Image references of row `index`."""
        if not self.layout.images or self._image_offsets[index] == self._image_offsets[index + 1]:
            return ()
        return tuple(ImageRef(**image) for image in self.batch.column("images")[index].as_py() or ())

    def provenance(self, index: int) -> Provenance:
        """Where row `index` came from."""
        return Provenance(**{name: self.batch.column(name)[index].as_py() for name in _PROVENANCE})

    def _shaped(self, name: str, column: str, index: int) -> Any:
        flat = self.list_view(column).row(index)
        if flat is None or name not in self.layout.shaped:
            return flat
        shape = self.list_view(f"shape.{name}").row(index)
        return flat if shape is None else flat.reshape(tuple(shape))

"""Rows into shard files: Arrow IPC, bounded record batches, the same bytes for the same rows."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, get_args

import numpy as np
import pyarrow as pa

from renderers import InternalError, OptionError, UserError

from .arrow_numpy import ArrowBatch, ArrowColumn, ArrowSchema, compact, numbers, strings, to_numpy
from .atomic import atomic_path
from .manifest import Codec, Histogram, ShardInfo
from .rows import Row
from .schema import RowLayout, rows_to_batch, schema_of

__all__ = ["CODECS", "ShardWriter"]

CODECS: tuple[Codec, ...] = get_args(Codec)

_SOURCE = "source"


class ShardWriter:
    """Writes `<split>-00000.arrow`, `<split>-00001.arrow`, … into a folder; each appears when it is complete.

    What a file holds depends only on the rows given since the last `roll` (or since the last file filled up), not on
    how they were cut into batches: pending rows are re-cut, and `source` is numbered per file in order of appearance.
    Used as a context manager it closes at the end, and on an error leaves finished files and removes the open one.

    Args:
        folder: must exist.
        split: first part of the file names.
        layout: optional columns.
        codec: buffer compression; None keeps files that can be used in place.
        max_tokens: a file is complete when it holds this many or more, 12 bytes each.
        batch_rows, batch_tokens: a record batch is complete at this many rows, or this many tokens or more.
        first_shard: number of the first file, for continuing a folder.

    Raises:
        OptionError: an unknown codec or a limit below 1.
        UserError: the folder does not exist.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        *,
        split: str = "train",
        layout: RowLayout | None = None,
        codec: Codec | None = None,
        max_tokens: int = 16_000_000,
        batch_rows: int = 1024,
        batch_tokens: int = 1_000_000,
        first_shard: int = 0,
    ) -> None:
        if codec is not None and codec not in CODECS:
            raise OptionError(f"codec: expected one of {', '.join(CODECS)} or none; got {codec!r}")
        if min(max_tokens, batch_rows, batch_tokens) < 1:
            raise OptionError(
                "max_tokens, batch_rows, batch_tokens: expected at least 1; "
                f"got {max_tokens}, {batch_rows}, {batch_tokens}"
            )
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise UserError(f"{self.folder}: expected an existing folder")
        self.split = split
        self.layout = layout or RowLayout()
        self.shards: list[ShardInfo] = []
        self.tokens_histogram = Histogram()
        self.trained_histogram = Histogram()
        self._schema = schema_of(self.layout)
        # Pending rows carry `source` as plain text: its numbers are only known once the file is.
        self._pending_schema = self._schema.set(
            self._schema.get_field_index(_SOURCE), pa.field(_SOURCE, pa.string(), nullable=False)
        )
        self._codec: Codec | None = codec
        self._max_tokens, self._batch_rows, self._batch_tokens = max_tokens, batch_rows, batch_tokens
        self._next_shard = first_shard
        self._pending: ArrowBatch | None = None
        self._file: _OpenShard | None = None

    def write(self, batch: ArrowBatch) -> None:
        """Add the rows of a record batch of this writer's layout.

        Raises:
            InternalError: the batch has another schema.
        """
        if not batch.schema.equals(self._schema):
            raise InternalError(f"shard writer: expected schema {self._schema}; got {batch.schema}")
        if not batch.num_rows:
            return
        index = self._schema.get_field_index(_SOURCE)
        batch = batch.set_column(index, self._pending_schema.field(index), _names(batch.column(index)))
        batch = batch.replace_schema_metadata(self._schema.metadata)
        self._pending = batch if self._pending is None else pa.concat_batches([self._pending, batch])
        while rows := self._complete_rows():
            self._emit(rows)

    def write_rows(self, rows: Sequence[Row]) -> None:
        """Add rows; raises `InputError` where one does not fit the layout."""
        self.write(rows_to_batch(rows, self.layout))

    def roll(self) -> None:
        """Complete the open file here, if it has rows; the next row starts another."""
        if self._pending is not None:
            self._emit(self._pending.num_rows)
        if self._file is not None:
            self.shards.append(self._file.finish())
            self._file = None

    def close(self) -> list[ShardInfo]:
        """Complete the open file and return all of this writer's."""
        self.roll()
        return self.shards

    def abort(self) -> None:
        """Forget what is pending and remove the open file; finished ones stay."""
        self._pending = None
        if self._file is not None:
            self._file.abort()
            self._file = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self.close()
        finally:
            self.abort()  # only finds something open after an error, its own or the caller's

    def _complete_rows(self) -> int:
        """How many pending rows make a complete record batch, 0 when they do not yet."""
        if self._pending is None:
            return 0
        filled = np.cumsum(to_numpy(self._pending.column("num_tokens")), dtype=np.int64)
        rows = min(self._batch_rows, int(np.searchsorted(filled, self._batch_tokens)) + 1)
        return rows if rows <= len(filled) else 0

    def _emit(self, rows: int) -> None:
        assert self._pending is not None
        batch, rest = self._pending.slice(0, rows), self._pending.slice(rows)
        self._pending = rest if rest.num_rows else None
        if self._file is None:
            path = self.folder / f"{self.split}-{self._next_shard:05d}.arrow"
            self._file = _OpenShard(path, self.split, self._schema, self._codec)
            self._next_shard += 1
        self._file.write(batch)
        self.tokens_histogram += Histogram.of(to_numpy(batch.column("num_tokens")))
        self.trained_histogram += Histogram.of(to_numpy(batch.column("num_trained")))
        if self._file.tokens >= self._max_tokens:
            self.shards.append(self._file.finish())
            self._file = None


def _names(sources: ArrowColumn) -> ArrowColumn:
    """Numbered names as plain ones; without pyarrow's compute functions, whose import costs more than the work."""
    names = sources.dictionary.to_pylist()
    return strings([names[number] for number in to_numpy(sources.indices).tolist()])


class _OpenShard:
    """One file on its way: temporary until `finish`."""

    def __init__(self, path: Path, split: str, schema: ArrowSchema, codec: Codec | None) -> None:
        self.path, self.split, self.schema = path, split, schema
        self.codec: Codec | None = codec
        self.rows = self.tokens = self.trained_tokens = 0
        self._sources: dict[str, int] = {}
        self._stack = ExitStack()
        self._temporary = self._stack.enter_context(atomic_path(path))
        self._sink = self._stack.enter_context(pa.OSFile(str(self._temporary), "wb"))
        options = pa.ipc.IpcWriteOptions(compression=codec, emit_dictionary_deltas=True)
        self._writer = pa.ipc.new_file(self._sink, schema, options=options)

    def write(self, batch: ArrowBatch) -> None:
        index = self.schema.get_field_index(_SOURCE)
        columns = [self._numbered(c) if i == index else compact(c) for i, c in enumerate(batch.columns)]
        self._writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=self.schema))
        self.rows += batch.num_rows
        self.tokens += int(to_numpy(batch.column("num_tokens")).sum(dtype=np.int64))
        self.trained_tokens += int(to_numpy(batch.column("num_trained")).sum(dtype=np.int64))

    def finish(self) -> ShardInfo:
        self._writer.close()
        self._sink.close()
        with self._temporary.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        size = self._temporary.stat().st_size
        self._stack.close()
        return ShardInfo(
            file=self.path.name,
            split=self.split,
            codec=self.codec,
            rows=self.rows,
            tokens=self.tokens,
            trained_tokens=self.trained_tokens,
            size=size,
            sha256=digest,
        )

    def abort(self) -> None:
        aborted = _AbortedError()
        self._stack.__exit__(_AbortedError, aborted, None)

    def _numbered(self, sources: ArrowColumn) -> ArrowColumn:
        """`source` as numbers into this file's names, which only ever grow, so that deltas can be written."""
        indices = np.array([self._sources.setdefault(n, len(self._sources)) for n in sources.to_pylist()], np.int32)
        return pa.DictionaryArray.from_arrays(numbers(indices), strings(list(self._sources)))


class _AbortedError(Exception):
    """Tells `atomic_path` that the file is not to appear."""

"""Reading finished shard folders: memory-mapped, row by row, as numpy views or `Datum`s."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self, overload

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from renderers import Datum, OptionError, UserError

from .arrow_numpy import ArrowBatch, to_numpy
from .columns import BatchView
from .manifest import Manifest, ShardInfo
from .rows import Row, row_to_datum
from .schema import layout_of

__all__ = ["RankView", "ShardReader", "open_shard", "read_batch"]

_COMPRESSED_BATCHES_KEPT = 8
"""Decompressed record batches held at a time; batches of uncompressed files are views and are all kept."""


def open_shard(path: Path, columns: Sequence[str] | None = None) -> Any:
    """A memory-mapped `pyarrow.ipc.RecordBatchFileReader`, optionally of some columns only.

    Raises:
        UserError: missing, empty, truncated, not Arrow, or of another schema; names the file.
    """
    try:
        reader = pa.ipc.open_file(pa.memory_map(str(path)))
        layout_of(reader.schema)
        if columns is not None:
            fields = [reader.schema.get_field_index(name) for name in columns]
            options = pa.ipc.IpcReadOptions(included_fields=fields)
            reader = pa.ipc.open_file(pa.memory_map(str(path)), options=options)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise UserError(f"{path}: expected a whole Arrow IPC file; {str(error).splitlines()[0]}") from None
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    return reader


def read_batch(reader: Any, index: int, path: Path, full: bool = False) -> ArrowBatch:
    """One record batch of `open_shard(path)`; its buffers are checked for size, with `full` for content too.

    Raises:
        UserError: it cannot be read; names the file.
    """
    try:
        batch = reader.get_batch(index)
        batch.validate(full=full)
    except (OSError, pa.ArrowException) as error:
        raise UserError(f"{path}: expected a whole Arrow IPC file; {str(error).splitlines()[0]}") from None
    return batch


class ShardReader(Sequence[Datum]):
    """A finished shard folder as a sequence of `Datum`s.

    Rows keep the order in which they were written. Token arrays are read-only views of the mapped files (of the
    decompressed batch where the files are compressed) and stay valid after `close`. Usable from several threads;
    pickles as its path and split and opens again on the other side.

    Args:
        path: folder with `manifest.json`.
        split: which split; None for all rows.

    Raises:
        UserError: not a finished folder, an unknown format version, no such split, a missing or truncated file.
    """

    def __init__(self, path: str | os.PathLike[str], split: str | None = "train") -> None:
        self.path = Path(path)
        self.split = split
        self.manifest = Manifest.load(self.path)
        self._shards = [shard for shard in self.manifest.shards if split is None or shard.split == split]
        if not self._shards and split is not None:
            raise UserError(f"{self.path}: expected a split among {', '.join(self.manifest.splits)}; got {split!r}")
        self._lock = threading.Lock()
        self._views: OrderedDict[int, BatchView] = OrderedDict()
        self._files: list[Any] | None = [self._open(shard) for shard in self._shards]
        self._batches = [
            (file, i, shard)
            for shard, file in zip(self._shards, self._files, strict=True)
            for i in range(file.num_record_batches)
        ]
        counts = self._read_counts()
        self.lengths: npt.NDArray[np.int32] = np.concatenate([np.empty(0, np.int32), *(c[0] for c in counts)])
        """Model input positions of each row, int32 (num_rows,); read without touching tokens."""
        self.num_trained: npt.NDArray[np.int32] = np.concatenate([np.empty(0, np.int32), *(c[1] for c in counts)])
        """Trained positions of each row, int32 (num_rows,); read without touching tokens."""
        # One past the last row of each record batch: a plain list, as bisect on it beats numpy for single rows.
        self._ends: list[int] = np.cumsum([len(c[0]) for c in counts], dtype=np.int64).tolist()

    def __len__(self) -> int:
        return len(self.lengths)

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        if isinstance(index, slice):
            return [self._datum(i) for i in range(*index.indices(len(self)))]
        return self._datum(index)

    def __iter__(self) -> Iterator[Datum]:
        return (self._datum(i) for i in range(len(self)))

    def row(self, index: int) -> Row:
        """Row `index` with all its columns; negative counts from the end. Raises IndexError."""
        view, i = self._locate(index)
        return view.row(i)

    def tokens(self, index: int) -> npt.NDArray[np.int32]:
        """Model input tokens of one row, int32 (n,), a view."""
        view, i = self._locate(index)
        values, offsets, _ = view.tokens
        return values[offsets[i] : offsets[i + 1]]

    @property
    def sources(self) -> list[str]:
        """Distinct sources, in order of appearance; reads no tokens."""
        found: dict[str, None] = {}
        for shard in self._shards:
            path = self.path / shard.file
            reader = open_shard(path, ["source"])
            for i in range(reader.num_record_batches):
                column = read_batch(reader, i, path, full=True).column(0)
                names = column.dictionary.to_pylist()
                found.update(dict.fromkeys(names[number] for number in column.indices.unique().to_pylist()))
        return list(found)

    def batches(self) -> Iterator[BatchView]:
        """All record batches in order, one at a time in memory where files are compressed."""
        for number in range(len(self._batches)):
            yield self._view(number)

    def rank_view(self, rank: int, world: int) -> RankView:
        """Rows `rank`, `rank + world`, …: the views of all ranks hold each row once.

        Raises:
            OptionError: not 0 <= rank < world.
        """
        if not 0 <= rank < world:
            raise OptionError(f"rank: expected 0 <= rank < world; got rank {rank}, world {world}")
        return RankView(self, range(rank, len(self), world))

    def close(self) -> None:
        """Let go of the files; arrays handed out stay valid, further reads raise ValueError."""
        self._files = None
        self._batches = []
        self._views.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __reduce__(self) -> tuple[type[ShardReader], tuple[Path, str | None]]:
        return type(self), (self.path, self.split)

    def _datum(self, index: int) -> Datum:
        view, i = self._locate(index)
        return row_to_datum(view.inputs(i))

    def _open(self, shard: ShardInfo) -> Any:
        path = self.path / shard.file
        try:
            size = path.stat().st_size
        except OSError as error:
            raise UserError(f"{path}: expected a shard file, as the manifest says; {error.strerror}") from None
        if size != shard.size:
            raise UserError(f"{path}: expected {shard.size} bytes, as the manifest says; got {size}")
        return open_shard(path)

    def _read_counts(self) -> list[tuple[Any, Any]]:
        counts: list[tuple[Any, Any]] = []
        for shard in self._shards:
            path = self.path / shard.file
            reader = open_shard(path, ["num_tokens", "num_trained"])
            batches = [read_batch(reader, i, path) for i in range(reader.num_record_batches)]
            rows = sum(batch.num_rows for batch in batches)
            if rows != shard.rows:
                raise UserError(f"{path}: expected {shard.rows} rows, as the manifest says; got {rows}")
            counts += [(to_numpy(batch.column(0)), to_numpy(batch.column(1))) for batch in batches]
        return counts

    def _locate(self, index: int) -> tuple[BatchView, int]:
        size = len(self.lengths)
        if index < 0:
            index += size
        if not 0 <= index < size:
            raise IndexError(f"row {index if index >= 0 else index - size} of {size}")
        number = bisect_right(self._ends, index)
        view = self._views.get(number) or self._view(number)
        return view, index - (self._ends[number - 1] if number else 0)

    def _view(self, number: int) -> BatchView:
        if self._files is None:
            raise ValueError(f"{self.path}: this reader is closed")
        with self._lock:
            view = self._views.get(number)
            if view is None:
                file, i, shard = self._batches[number]
                view = self._views[number] = BatchView(read_batch(file, i, self.path / shard.file))
                if shard.codec and len(self._views) > _COMPRESSED_BATCHES_KEPT:
                    self._views.popitem(last=False)
            return view


class RankView(Sequence[Datum]):
    """One rank's rows of a reader.

    Attributes:
        reader: whose rows.
        rows: their indices in the reader.
    """

    def __init__(self, reader: ShardReader, rows: range) -> None:
        self.reader = reader
        self.rows = rows

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Datum: ...
    @overload
    def __getitem__(self, index: slice) -> list[Datum]: ...
    def __getitem__(self, index: int | slice) -> Datum | list[Datum]:
        if isinstance(index, slice):
            return [self.reader[i] for i in self.rows[index]]
        return self.reader[self.rows[index]]

    @property
    def lengths(self) -> npt.NDArray[np.int32]:
        """Model input positions of each of these rows, int32 (num_rows,), a view."""
        return self.reader.lengths[self.rows.start :: self.rows.step]

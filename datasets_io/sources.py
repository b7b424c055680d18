"""What the user named as inputs: files, globs, folders, standard input, datasets."""

from __future__ import annotations

import glob
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypedDict

from renderers import InternalError, UserError

from .streams import ByteStream, file_sha256, open_stream
from .tables import TableRow, arrow_rows, dataset_rows, parquet_rows

__all__ = ["InputFingerprint", "Source", "expand_inputs", "input_fingerprint", "input_size"]

SourceKind = Literal["lines", "detect", "parquet", "arrow", "dataset"]
_KIND_BY_SUFFIX: dict[str, SourceKind] = {
    ".arrow": "arrow",
    ".feather": "arrow",
    ".ipc": "arrow",
    ".json": "detect",
    ".jsonl": "lines",
    ".ndjson": "lines",
    ".parquet": "parquet",
}
_COMPRESSION_BY_SUFFIX = {".gz": "gzip", ".zst": "zstd"}
_EXPECTED = ".json, .jsonl or .ndjson (also with .gz or .zst), .parquet, .arrow, .feather or .ipc"


class InputFingerprint(TypedDict):
    """Identity of one input: `size` in bytes and `sha256` of a file as it lies on disk, or of what was read."""

    path: str
    size: int
    sha256: str


class _Tap:
    """Size and hash of what passes by, for inputs that can be read only once."""

    def __init__(self) -> None:
        self.size = 0
        self.sha256 = hashlib.sha256()
        self.complete = False

    def __call__(self, data: bytes) -> None:
        self.size += len(data)
        self.sha256.update(data)


@dataclass(slots=True)
class Source:
    """One input.

    Attributes:
        name: as the user gave it (a glob's files by their own paths).
        kind: `lines` (JSON lines), `detect` (lines or one array, by the first byte), `parquet`, `arrow`, `dataset`.
        path: the file, or None for standard input and datasets.
        compression: None, `gzip` or `zstd`.
    """

    name: str
    kind: SourceKind
    path: Path | None = None
    compression: str | None = None
    _tap: _Tap | None = field(default=None, repr=False, compare=False)

    @property
    def is_table(self) -> bool:
        return self.kind in ("parquet", "arrow", "dataset")

    def open_bytes(self) -> ByteStream:
        """Its uncompressed bytes (text inputs only)."""
        return open_stream(self.name, self.path, self.compression, self._start_tap() if self.reads_once else None)

    def table_rows(self) -> Iterator[TableRow]:
        """Its rows (tables only)."""
        if self.kind == "dataset":
            return self._dataset_rows()
        assert self.path is not None
        return (parquet_rows if self.kind == "parquet" else arrow_rows)(self.name, self.path)

    @property
    def reads_once(self) -> bool:
        """Standard input and named pipes: what was read is gone."""
        return not self.is_table and (self.path is None or not self.path.is_file())

    def finished(self) -> None:
        """Everything was read: the fingerprint of what passed by is whole."""
        if self._tap is not None:
            self._tap.complete = True

    def fingerprint(self) -> InputFingerprint:
        """See `input_fingerprint`."""
        if self.kind == "dataset" and (self._tap is None or not self._tap.complete):
            for _ in self.table_rows():
                pass
            self.finished()
        if self.kind == "dataset" or self.reads_once:
            if self._tap is None or not self._tap.complete:
                raise InternalError(f"{self.name}: its fingerprint is known only after it was read to the end")
            return {"path": self.name, "size": self._tap.size, "sha256": self._tap.sha256.hexdigest()}
        assert self.path is not None
        try:
            size, sha256 = file_sha256(self.path)
        except OSError as fault:
            raise UserError(f"{self.name}: expected a readable file; got: {fault.strerror}") from None
        return {"path": self.name, "size": size, "sha256": sha256}

    def _start_tap(self) -> _Tap:
        self._tap = _Tap()
        return self._tap

    def _dataset_rows(self) -> Iterator[TableRow]:
        tap = self._start_tap()
        for row in dataset_rows(self.name, self.name.removeprefix("hf:")):
            tap(row.data + b"\n")
            yield row


def expand_inputs(inputs: Sequence[str]) -> list[Source]:
    """Sources in the order given; the files of a glob or folder sorted by path.

    Args:
        inputs: paths, globs, folders, `-` for standard input, `hf:org/name[:config][:split]`.

    Raises:
        UserError: nothing given, a file that does not exist or has an unknown suffix, a glob or folder without
            a file, an input named twice.
    """
    if not inputs:
        raise UserError("inputs: expected at least one file, glob, folder, dataset or -; got none")
    sources = [source for text in inputs for source in _expand(text)]
    seen: set[str] = set()
    for source in sources:
        key = source.name if source.path is None else str(source.path.resolve())
        if key in seen:
            raise UserError(f"inputs: expected every input once; got {source.name} twice")
        seen.add(key)
    return sources


def input_fingerprint(source: Source) -> InputFingerprint:
    """Size and sha256 of an input, streamed. Standard input and pipes are hashed while they are read.

    Raises:
        UserError: the file cannot be read.
        InternalError: an input that can be read only once has not been read to its end yet.
    """
    return source.fingerprint()


def input_size(sources: Sequence[Source]) -> int | None:
    """Uncompressed bytes of all inputs together, None where that is not known without reading them."""
    if any(s.is_table or s.path is None or s.reads_once or s.compression is not None for s in sources):
        return None
    return sum(source.path.stat().st_size for source in sources if source.path is not None)


def _expand(text: str) -> list[Source]:
    if text == "-":
        return [Source("-", "detect")]
    if text.startswith("hf:"):
        return [Source(text, "dataset")]
    path = Path(text)
    if path.is_dir():
        return _folder(text, path)
    if path.exists():
        return [_file(text)]
    if glob.has_magic(text):
        files = sorted(found for found in glob.glob(text, recursive=True) if not Path(found).is_dir())  # noqa: PTH207
        if not files:
            raise UserError(f"{text}: expected a glob that matches files; got no match")
        return [_file(found) for found in files]
    hint = f" (a dataset on the Hub is written hf:{text})" if text.count("/") == 1 and not path.suffix else ""
    raise UserError(f"{text}: expected a file that exists; got nothing there{hint}")


def _file(text: str) -> Source:
    path = Path(text)
    if not path.is_file():  # a named pipe, such as a shell's <(command)
        return Source(text, "detect", path)
    suffix = path.suffix.lower()
    compression = _COMPRESSION_BY_SUFFIX.get(suffix)
    if compression is not None:
        suffix = Path(path.stem).suffix.lower()
    kind = _KIND_BY_SUFFIX.get(suffix)
    if kind is None or (compression is not None and kind not in ("lines", "detect")):
        raise UserError(f"{text}: expected a file name ending in {_EXPECTED}; got {path.name!r}")
    return Source(text, kind, path, compression)


def _folder(text: str, folder: Path) -> list[Source]:
    """A dataset saved by `datasets`, the data files in it, or whatever else `datasets` makes of it."""
    if (folder / "state.json").is_file() or (folder / "dataset_dict.json").is_file():
        return [Source(f"hf:{text}", "dataset")]
    files = sorted(str(path) for path in folder.rglob("*") if path.is_file() and _is_data(path))
    return [_file(found) for found in files] if files else [Source(f"hf:{text}", "dataset")]


def _is_data(path: Path) -> bool:
    suffixes: list[Any] = [suffix.lower() for suffix in path.suffixes[-2:]]
    if suffixes and suffixes[-1] in _COMPRESSION_BY_SUFFIX:
        return len(suffixes) == 2 and _KIND_BY_SUFFIX.get(suffixes[0]) in ("lines", "detect")
    return bool(suffixes) and suffixes[-1] in _KIND_BY_SUFFIX

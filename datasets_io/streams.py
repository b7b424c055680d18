"""Bytes of one input, decompressed and read in exact amounts."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from renderers import UserError

__all__ = ["ByteStream", "file_sha256", "open_stream"]

_BOM = b"\xef\xbb\xbf"
_WHITESPACE = b" \t\r\n"


class ByteStream:
    """A reader with exact reads, a position and a look at the first byte that is not whitespace.

    Args:
        name: the input as the user gave it, for errors.
        read: `read(n)` returns 1..n bytes, or nothing at the end.
        close: called once at the end.
        on_bytes: sees everything read, in order (hashing of inputs that can be read only once).
    """

    def __init__(
        self,
        name: str,
        read: Callable[[int], bytes],
        close: Callable[[], None],
        on_bytes: Callable[[bytes], None] | None = None,
    ) -> None:
        self.name = name
        self.offset = 0
        self._read = read
        self._close = close
        self._on_bytes = on_bytes
        self._ahead = b""
        self._skip_bom()

    def read(self, size: int) -> bytes:
        """Exactly `size` bytes; fewer only at the end of the input.

        Raises:
            UserError: the input is truncated, damaged or not of the compression its name says.
        """
        data = self._take(size)
        self.offset += len(data)
        return data

    def first_byte(self) -> bytes:
        """The first byte ahead that is not JSON whitespace, not consumed; empty when there is none."""
        skip = 0
        while True:
            rest = self._ahead[skip:].lstrip(_WHITESPACE)
            if rest:
                return rest[:1]
            skip = len(self._ahead)
            more = self._fetch(1 << 16)
            if not more:
                return b""
            self._ahead += more

    def __enter__(self) -> ByteStream:
        return self

    def __exit__(self, kind: type[BaseException] | None, fault: BaseException | None, at: TracebackType | None) -> None:
        self._close()

    def _skip_bom(self) -> None:
        self._ahead = self._take(len(_BOM))
        if self._ahead == _BOM:
            self._ahead = b""
            self.offset = len(_BOM)

    def _take(self, size: int) -> bytes:
        data, self._ahead = self._ahead[:size], self._ahead[size:]
        if len(data) == size:
            return data
        parts = [data]
        missing = size - len(data)
        while missing:
            part = self._fetch(missing)
            if not part:
                break
            parts.append(part)
            missing -= len(part)
        return b"".join(parts)

    def _fetch(self, size: int) -> bytes:
        try:
            data = self._read(size)
        except OSError as fault:
            raise UserError(f"{self.name}: expected readable data; got: {fault}") from None
        if data and self._on_bytes is not None:
            self._on_bytes(data)
        return data


def open_stream(
    name: str, path: Path | None, compression: str | None, digest: Callable[[bytes], None] | None = None
) -> ByteStream:
    """Open a file (or standard input when `path` is None) for reading uncompressed bytes.

    Args:
        compression: None, `gzip` or `zstd`.
        digest: sees the bytes as they are read; only for inputs without compression.

    Raises:
        UserError: the file cannot be opened.
    """
    if path is None:
        return ByteStream(name, sys.stdin.buffer.read, lambda: None, digest)
    try:
        if compression is None:
            file = path.open("rb", buffering=0)
            return ByteStream(name, file.read, file.close, digest)
        import pyarrow as pa

        # Arrow's reader, because it says "truncated" where other zstd readers end without a word.
        packed: Any = pa.CompressedInputStream(pa.OSFile(str(path)), compression)
        return ByteStream(name, packed.read, packed.close)
    except OSError as fault:
        raise UserError(f"{name}: expected a readable file; got: {fault.strerror or fault}") from None


def file_sha256(path: Path) -> tuple[int, str]:
    """Size in bytes and sha256 of a file as it lies on disk, streamed."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
        return file.tell(), digest.hexdigest()

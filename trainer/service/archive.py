"""A checkpoint as one `tar.gz`: equal files give equal bytes."""

from __future__ import annotations

import gzip
import io
import tarfile
from pathlib import Path
from typing import IO

from datasets_io import atomic_stream

from .manifest import MANIFEST

__all__ = ["pack_bytes", "pack_file"]

# What belongs to the store, not to the adapter.
_OWN_FILES = {MANIFEST, "state.json"}


def _pack(folder: Path, stream: IO[bytes]) -> None:
    with (
        gzip.GzipFile(fileobj=stream, mode="wb", mtime=0, filename="") as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as tar,
    ):
        for path in sorted(folder.iterdir()):
            if path.name in _OWN_FILES:
                continue
            entry = tarfile.TarInfo(path.name)
            entry.size = path.stat().st_size
            with path.open("rb") as content:
                tar.addfile(entry, content)


def pack_bytes(folder: Path) -> bytes:
    """The folder's files in memory."""
    stream = io.BytesIO()
    _pack(folder, stream)
    return stream.getvalue()


def pack_file(folder: Path, target: Path) -> None:
    """The folder's files into `target`, whole or not at all."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with atomic_stream(target) as stream:
        _pack(folder, stream)

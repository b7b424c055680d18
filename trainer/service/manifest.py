"""A folder that is there whole or not at all: every file flushed, its sha256 in a manifest written last, one rename.

A folder without a manifest does not exist for any reader.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from renderers import UserError

__all__ = ["MANIFEST", "DamagedCheckpointError", "FileEntry", "read_manifest", "seal", "sync", "verify"]

MANIFEST = "manifest.json"
_FORMAT = 1


class DamagedCheckpointError(UserError):
    """A checkpoint's bytes are not those that were written."""


@dataclass(frozen=True)
class FileEntry:
    size: int
    sha256: str


def sync(path: Path) -> None:
    """Flush a file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _hash(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal(folder: Path) -> dict[str, FileEntry]:
    """Flush every file of `folder`, then write and flush its manifest."""
    entries: dict[str, FileEntry] = {}
    for path in sorted(folder.iterdir()):
        sync(path)
        entries[path.name] = FileEntry(path.stat().st_size, _hash(path))
    content = {"format": _FORMAT, "files": {n: {"size": e.size, "sha256": e.sha256} for n, e in entries.items()}}
    manifest = folder / MANIFEST
    manifest.write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))
    sync(manifest)
    sync(folder)
    return entries


def read_manifest(folder: Path) -> dict[str, FileEntry] | None:
    """The entries by file name; None where there is no manifest (nothing exists there).

    Raises:
        DamagedCheckpointError: the manifest cannot be read.
    """
    try:
        raw = (folder / MANIFEST).read_bytes()
    except (FileNotFoundError, NotADirectoryError):
        return None
    try:
        content: dict[str, Any] = orjson.loads(raw)
        if content["format"] != _FORMAT:
            raise DamagedCheckpointError(f"{folder}/{MANIFEST}: expected format {_FORMAT}; got {content['format']!r}")
        return {name: FileEntry(int(e["size"]), str(e["sha256"])) for name, e in content["files"].items()}
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise DamagedCheckpointError(f"{folder}/{MANIFEST}: expected a manifest; got {error}") from error


def verify(folder: Path, entries: dict[str, FileEntry]) -> None:
    """Compare every file with its entry.

    Raises:
        DamagedCheckpointError: a file is missing, or has another size or sha256.
    """
    for name, entry in entries.items():
        path = folder / name
        if not path.is_file():
            raise DamagedCheckpointError(f"{path}: expected {entry.size} bytes; the file is missing")
        size = path.stat().st_size
        if size != entry.size:
            raise DamagedCheckpointError(f"{path}: expected {entry.size} bytes; got {size}")
        found = _hash(path)
        if found != entry.sha256:
            raise DamagedCheckpointError(f"{path}: expected sha256 {entry.sha256}; got {found}")

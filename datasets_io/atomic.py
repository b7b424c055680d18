"""Files that are there whole or not at all: written aside, flushed to the disk, renamed, folder flushed."""

from __future__ import annotations

import os
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

import orjson

__all__ = ["TEMPORARY_PREFIX", "atomic_path", "atomic_stream", "remove_leftovers", "write_bytes", "write_json"]

TEMPORARY_PREFIX = ".tmp-"
"""How unfinished files are called; hidden, and in the folder of the finished one so that the rename is atomic."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Generator[Path]:
    """Gives a temporary path to write; on success it becomes `path`, on any error it is removed.

    A killed process leaves the temporary file behind: see `remove_leftovers`.

    Raises:
        OSError: the folder does not exist, is not writable, or the disk is full.
    """
    target = Path(path)
    temporary = target.with_name(f"{TEMPORARY_PREFIX}{os.getpid()}-{target.name}")
    try:
        yield temporary
        _sync(temporary)
        temporary.replace(target)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # The rename itself is only safe once the folder's own entry is on the disk.
    _sync(target.parent)


@contextmanager
def atomic_stream(path: str | os.PathLike[str]) -> Generator[IO[bytes]]:
    """A binary stream that becomes `path` when the block ends without an error."""
    with atomic_path(path) as temporary, temporary.open("wb") as stream:
        yield stream
        stream.flush()


def write_bytes(path: str | os.PathLike[str], data: bytes) -> None:
    """Replace `path` with `data`, whole or not at all."""
    with atomic_stream(path) as stream:
        stream.write(data)


def write_json(path: str | os.PathLike[str], value: Any) -> None:
    """Replace `path` with `value` as indented JSON; equal values give equal bytes when their keys come in one order."""
    write_bytes(path, orjson.dumps(value, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE))


def remove_leftovers(folder: str | os.PathLike[str]) -> list[Path]:
    """Delete what killed writers left in `folder` and say which files that were.

    Only for the one process that owns the folder: it would take a living writer's file away too.
    """
    found = sorted(path for path in Path(folder).glob(f"{TEMPORARY_PREFIX}*") if path.is_file())
    for path in found:
        path.unlink(missing_ok=True)
    return found


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

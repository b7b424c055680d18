"""The output folder while a run is under way: who owns it, which run it is of, what may be deleted.

run.json            what is being made, written first
blocks/             a sidecar, rejects and drops per finished block
<split>-<block>.arrow
rejects.jsonl       refused rows, whole
drops.jsonl         what accepted rows lost
manifest.json       written last; blocks/ and run.json go after it
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from renderers import Backend, UserError

from .atomic import TEMPORARY_PREFIX, atomic_stream, remove_leftovers, write_json
from .block_files import BLOCKS_FOLDER, drops_path, rejects_path
from .folder_lock import lock_folder
from .manifest import MANIFEST_NAME, Manifest, RunSpec

__all__ = ["DROPS_NAME", "REJECTS_NAME", "RUN_NAME", "RunFolder", "RunState"]

RUN_NAME = "run.json"
REJECTS_NAME = "rejects.jsonl"
DROPS_NAME = "drops.jsonl"
_SHARD = re.compile(r"(train|eval)-\d{5,}\.arrow")


class RunState(BaseModel):
    """`run.json`: the run, and what it had to change on the way.

    Attributes:
        backend: the encoder asked for, or `tokenizers` once the fast one gave other ids.
        fallback: why it was changed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: RunSpec
    backend: Backend
    fallback: str | None = None

    @property
    def name(self) -> str:
        """What sidecars of this state carry."""
        return f"{self.run.fingerprint}-{self.backend}"


class RunFolder:
    """The folder of one run, locked for as long as the context is open.

    Raises:
        UserError: it is a file, holds something that is not ours, or another run is writing into it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = -1

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: expected a folder for the shards; got a file")
        self._refuse_foreign()
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def lock(self) -> int:
        """Descriptor for worker processes: the lock is free when the last of them is gone."""
        return self._lock

    # -- what is there

    def manifest(self) -> Manifest | None:
        """The finished run's manifest, None when there is none."""
        return Manifest.load(self.path) if (self.path / MANIFEST_NAME).exists() else None

    def state(self) -> RunState | None:
        """The unfinished run, None when there is none (or none that this version can read)."""
        try:
            return RunState.model_validate(orjson.loads((self.path / RUN_NAME).read_bytes()))
        except (FileNotFoundError, orjson.JSONDecodeError, ValidationError):
            return None

    def _refuse_foreign(self) -> None:
        """A folder that no run has made is not ours to write into."""
        names = sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
        if MANIFEST_NAME in names or RUN_NAME in names:
            return
        foreign = [name for name in names if not _is_ours(name)]
        if foreign:
            raise UserError(
                f"{self.path}: expected an empty folder, or one of an earlier run; got one with {foreign[0]!r} in it"
            )

    # -- what changes

    def begin(self, state: RunState) -> None:
        """Note the run, before its first block. Files that belong to no run are deleted."""
        if self.state() != state:
            self.clear()
            write_json(self.path / RUN_NAME, state.model_dump(mode="json"))
        (self.path / BLOCKS_FOLDER).mkdir(exist_ok=True)
        self.remove_leftovers()

    def clear(self) -> None:
        """Delete everything that runs write, and nothing else; the manifest first, so that no half folder has one."""
        for name in (MANIFEST_NAME, RUN_NAME):
            (self.path / name).unlink(missing_ok=True)
        shutil.rmtree(self.path / BLOCKS_FOLDER, ignore_errors=True)
        for path in self.path.iterdir():
            if path.is_file() and _is_ours(path.name):
                path.unlink()

    def forget_blocks(self) -> None:
        """A run that cannot be continued: its blocks and shards go; `rejects.jsonl` and `drops.jsonl` stay."""
        (self.path / RUN_NAME).unlink(missing_ok=True)
        shutil.rmtree(self.path / BLOCKS_FOLDER, ignore_errors=True)
        for path in self.path.glob("*.arrow"):
            if _SHARD.fullmatch(path.name):
                path.unlink()
        self.remove_leftovers()

    def remove_leftovers(self) -> None:
        """Delete half-written files; only while no worker is writing."""
        remove_leftovers(self.path)
        remove_leftovers(self.path / BLOCKS_FOLDER)

    def gather_lines(self, blocks: Sequence[int]) -> None:
        """`rejects.jsonl` and `drops.jsonl` from the blocks', in order; no file where there is nothing to say."""
        _gather(self.path, REJECTS_NAME, rejects_path, blocks)
        _gather(self.path, DROPS_NAME, drops_path, blocks)

    def finish(self, manifest: Manifest) -> None:
        """The last step of a run."""
        self.remove_leftovers()
        manifest.save(self.path)
        self.tidy()

    def tidy(self) -> None:
        """After the manifest is there: what was only needed to get to it."""
        (self.path / RUN_NAME).unlink(missing_ok=True)
        shutil.rmtree(self.path / BLOCKS_FOLDER, ignore_errors=True)


def _gather(folder: Path, name: str, part_path: Callable[[Path, int], Path], blocks: Sequence[int]) -> None:
    parts = [path for path in (part_path(folder, index) for index in blocks) if path.is_file()]
    if not parts:
        (folder / name).unlink(missing_ok=True)
        return
    with atomic_stream(folder / name) as whole:
        for path in parts:
            with path.open("rb") as part:
                shutil.copyfileobj(part, whole)


def _is_ours(name: str) -> bool:
    known = (MANIFEST_NAME, RUN_NAME, BLOCKS_FOLDER, REJECTS_NAME, DROPS_NAME)
    return name in known or name.startswith(TEMPORARY_PREFIX) or _SHARD.fullmatch(name) is not None

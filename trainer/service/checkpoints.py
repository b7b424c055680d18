"""Where checkpoints live: `CheckpointStore`, and the store on a local folder.

    ROOT/<run>/<weights|sampler_weights|external_weights>/<name>/
        adapter_config.json  adapter_model.safetensors  [optimizer.safetensors]  metadata.json  manifest.json
        state.json           what may change later: expiry, visibility

A checkpoint is written beside its place under a hidden name, sealed (see `manifest`) and renamed into place. What a
killed process leaves behind is hidden, and `recover` clears it away.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Generator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Protocol

import orjson

from datasets_io import write_json
from renderers import OptionError, UserError
from trainer.protocol import Checkpoint, LoraConfig, NotFoundError, ParsedCheckpointTinkerPath, check_run_id

from .manifest import DamagedCheckpointError, read_manifest, seal, sync, verify

__all__ = ["CheckpointInfo", "CheckpointStore", "FolderCheckpointStore", "StoredCheckpoint", "check_ttl"]

_METADATA = "metadata.json"
_STATE = "state.json"
_TEMPORARY = ".tmp"
_REPLACED = ".replaced"
_MIN_TTL, _MAX_TTL = 3600, 10 * 365 * 86400


def check_ttl(ttl_seconds: int | None) -> int | None:
    """`ttl_seconds`; `OptionError` unless None or between an hour and ten years."""
    if ttl_seconds is None:
        return None
    whole = isinstance(ttl_seconds, int) and not isinstance(ttl_seconds, bool)
    if not whole or not _MIN_TTL <= ttl_seconds <= _MAX_TTL:
        raise OptionError(f"ttl_seconds: expected None or {_MIN_TTL} to {_MAX_TTL}; got {ttl_seconds!r}")
    return ttl_seconds


@dataclass(frozen=True)
class CheckpointInfo:
    """What is known when a checkpoint is written, and never changes.

    Attributes:
        base_model: the name the run was created with.
        lora: the adapter's configuration.
        step: optimizer steps taken.
        has_optimizer: whether the moments are there.
        owner: whose it is.
        created: UTC.
        user_metadata: the caller's own words.
    """

    base_model: str
    lora: LoraConfig
    step: int
    has_optimizer: bool
    owner: str
    created: datetime
    user_metadata: dict[str, str] | None = None

    def to_json(self) -> dict[str, Any]:
        return {**asdict(self), "created": self.created.isoformat()}

    @classmethod
    def from_json(cls, raw: dict[str, Any]) -> CheckpointInfo:
        known: dict[str, Any] = {"lora": LoraConfig(**raw["lora"]), "created": datetime.fromisoformat(raw["created"])}
        return cls(**{**raw, **known})


@dataclass(frozen=True)
class StoredCheckpoint:
    """A checkpoint that exists."""

    path: ParsedCheckpointTinkerPath
    info: CheckpointInfo
    size_bytes: int
    expires_at: datetime | None = None
    public: bool = False

    def listed(self) -> Checkpoint:
        """As listings show it."""
        return Checkpoint(
            checkpoint_id=self.path.checkpoint_id,
            checkpoint_type=self.path.checkpoint_type,
            time=self.info.created,
            tinker_path=self.path.tinker_path,
            size_bytes=self.size_bytes,
            public=self.public,
            user_metadata=self.info.user_metadata,
            expires_at=self.expires_at,
        )


class CheckpointStore(Protocol):
    """Checkpoints by path. Expired and torn ones do not exist. Every method may be called from any thread."""

    def write(
        self,
        path: ParsedCheckpointTinkerPath,
        info: CheckpointInfo,
        fill: Callable[[Path], None],
        *,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
    ) -> StoredCheckpoint:
        """Store what `fill` writes into the empty folder that it gets; `OptionError` when the name is taken."""
        ...

    def find(self, path: ParsedCheckpointTinkerPath) -> StoredCheckpoint:
        """The checkpoint; `NotFoundError` when there is none."""
        ...

    def open(self, path: ParsedCheckpointTinkerPath) -> AbstractContextManager[Path]:
        """A local folder with its verified files, readable inside the block; `NotFoundError` when there is none."""
        ...

    def list(self, run_id: str | None = None) -> list[StoredCheckpoint]:
        """Of one run or of all, oldest first."""
        ...

    def delete(self, path: ParsedCheckpointTinkerPath) -> None: ...

    def set_ttl(self, path: ParsedCheckpointTinkerPath, ttl_seconds: int | None) -> StoredCheckpoint:
        """Expiry counted from now; None never."""
        ...

    def set_public(self, path: ParsedCheckpointTinkerPath, public: bool) -> StoredCheckpoint: ...

    def sweep(self) -> int:
        """Delete what has expired; gives how many."""
        ...


def _utc_now() -> datetime:
    return datetime.now(UTC)


class FolderCheckpointStore:
    """Checkpoints under a local folder; several processes may share it.

    Args:
        root: made when missing.
        now: the clock, for expiry.
    """

    def __init__(self, root: str | Path, *, now: Callable[[], datetime] = _utc_now) -> None:
        self.root = Path(root)
        self._now = now
        self.root.mkdir(parents=True, exist_ok=True)
        self.recover()

    # ---- places

    def folder(self, path: ParsedCheckpointTinkerPath) -> Path:
        """Where the checkpoint lies, whether or not it exists."""
        return self._run_folder(path.training_run_id) / path.checkpoint_id

    def _run_folder(self, run_id: str) -> Path:
        # ":" separates lists of paths in many tools; "+" is no legal character of a run id, so this stays one to one.
        return self.root / check_run_id(run_id).replace(":", "+")

    @contextmanager
    def _locked(self) -> Generator[None]:
        """One process (and thread) at a time where a name changes hands."""
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    # ---- writing

    def write(
        self,
        path: ParsedCheckpointTinkerPath,
        info: CheckpointInfo,
        fill: Callable[[Path], None],
        *,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
    ) -> StoredCheckpoint:
        """See `CheckpointStore.write`."""
        ttl = check_ttl(ttl_seconds)
        if not overwrite:
            self._check_free(path)
        expires_at = None if ttl is None else self._now() + timedelta(seconds=ttl)
        place = self.folder(path)
        place.parent.mkdir(parents=True, exist_ok=True)
        temporary = place.with_name(f"{_TEMPORARY}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}")
        temporary.mkdir()
        try:
            fill(temporary)
            write_json(temporary / _METADATA, info.to_json())
            size = sum(entry.size for entry in seal(temporary).values())
            write_json(temporary / _STATE, _state(expires_at, public=False))
            self._commit(path, temporary, overwrite=overwrite)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for folder in (place.parent, place.parent.parent, self.root):
            sync(folder)
        return StoredCheckpoint(path, info, size, expires_at)

    def _check_free(self, path: ParsedCheckpointTinkerPath) -> None:
        try:
            self.find(path)
        except NotFoundError:
            return
        raise OptionError(f"name: expected one that is free, or overwrite=True; {path.tinker_path} exists")

    def _commit(self, path: ParsedCheckpointTinkerPath, temporary: Path, *, overwrite: bool) -> None:
        place = self.folder(path)
        replaced = place.with_name(f"{_REPLACED}-{place.name}")
        with self._locked():
            if not overwrite:
                self._check_free(path)
            if place.exists():  # replaced, expired, or torn by hand
                shutil.rmtree(replaced, ignore_errors=True)
                place.rename(replaced)
            temporary.rename(place)
            shutil.rmtree(replaced, ignore_errors=True)

    # ---- reading

    def find(self, path: ParsedCheckpointTinkerPath) -> StoredCheckpoint:
        """See `CheckpointStore.find`; the files' bytes are not read."""
        found = self._read(path)
        if found is None or (found.expires_at is not None and found.expires_at <= self._now()):
            raise NotFoundError(f"path: expected a checkpoint that exists; got {path.tinker_path!r}")
        return found

    def _read(self, path: ParsedCheckpointTinkerPath) -> StoredCheckpoint | None:
        folder = self.folder(path)
        entries = read_manifest(folder)
        if entries is None:
            return None
        try:
            info = CheckpointInfo.from_json(orjson.loads((folder / _METADATA).read_bytes()))
            state: dict[str, Any] = orjson.loads((folder / _STATE).read_bytes())
        except FileNotFoundError:
            if not folder.exists():  # deleted while we read
                return None
            raise DamagedCheckpointError(f"{folder}: expected {_METADATA} and {_STATE}; one is missing") from None
        except (orjson.JSONDecodeError, KeyError, TypeError, ValueError) as error:
            raise DamagedCheckpointError(f"{folder}: expected readable {_METADATA} and {_STATE}; {error}") from error
        expires = state.get("expires_at")
        return StoredCheckpoint(
            path=path,
            info=info,
            size_bytes=sum(entry.size for entry in entries.values()),
            expires_at=None if expires is None else datetime.fromisoformat(expires),
            public=bool(state.get("public")),
        )

    @contextmanager
    def open(self, path: ParsedCheckpointTinkerPath) -> Generator[Path]:
        """See `CheckpointStore.open`."""
        self.find(path)
        folder = self.folder(path)
        verify(folder, read_manifest(folder) or {})
        yield folder

    def list(self, run_id: str | None = None) -> list[StoredCheckpoint]:
        """See `CheckpointStore.list`; one that is damaged is left out here and refused by `find`."""
        now = self._now()
        found = [c for c in self._all(run_id) if c.expires_at is None or c.expires_at > now]
        return sorted(found, key=lambda c: (c.info.created, c.path.tinker_path))

    def _all(self, run_id: str | None) -> Generator[StoredCheckpoint]:
        runs = self.root.iterdir() if run_id is None else [self._run_folder(run_id)]
        for run in runs:
            if run.name.startswith(".") or not run.is_dir():
                continue
            for folder in sorted(run.glob("*/[!.]*")):
                try:
                    checkpoint_id = f"{folder.parent.name}/{folder.name}"
                    stored = self._read(
                        ParsedCheckpointTinkerPath.from_checkpoint_id(run.name.replace("+", ":"), checkpoint_id)
                    )
                except UserError:
                    continue
                if stored is not None:
                    yield stored

    # ---- changing

    def delete(self, path: ParsedCheckpointTinkerPath) -> None:
        """See `CheckpointStore.delete`."""
        self.find(path)
        self._remove(path)

    def _remove(self, path: ParsedCheckpointTinkerPath) -> None:
        place = self.folder(path)
        aside = place.with_name(f"{_TEMPORARY}-{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex}")
        with self._locked():
            if place.exists():
                place.rename(aside)
        sync(place.parent)
        shutil.rmtree(aside, ignore_errors=True)

    def set_ttl(self, path: ParsedCheckpointTinkerPath, ttl_seconds: int | None) -> StoredCheckpoint:
        """See `CheckpointStore.set_ttl`."""
        ttl = check_ttl(ttl_seconds)
        return self._change(path, lambda c: replace(c, expires_at=None if ttl is None else self._now() + _seconds(ttl)))

    def set_public(self, path: ParsedCheckpointTinkerPath, public: bool) -> StoredCheckpoint:
        """See `CheckpointStore.set_public`."""
        return self._change(path, lambda c: replace(c, public=public))

    def _change(
        self, path: ParsedCheckpointTinkerPath, change: Callable[[StoredCheckpoint], StoredCheckpoint]
    ) -> StoredCheckpoint:
        with self._locked():
            changed = change(self.find(path))
            write_json(self.folder(path) / _STATE, _state(changed.expires_at, public=changed.public))
        return changed

    def sweep(self) -> int:
        """See `CheckpointStore.sweep`."""
        now = self._now()
        expired = [c for c in self._all(None) if c.expires_at is not None and c.expires_at <= now]
        for checkpoint in expired:
            self._remove(checkpoint.path)
        return len(expired)

    # ---- after a crash

    def recover(self) -> None:
        """Clear away what killed processes of this machine left; bring back what was being replaced."""
        with self._locked():
            for leftover in self.root.glob(f"*/*/{_REPLACED}-*"):
                place = leftover.with_name(leftover.name.removeprefix(f"{_REPLACED}-"))
                if place.exists():
                    shutil.rmtree(leftover, ignore_errors=True)
                else:
                    leftover.rename(place)
            for leftover in self.root.glob(f"*/*/{_TEMPORARY}-*"):
                if _is_orphan(leftover.name):
                    shutil.rmtree(leftover, ignore_errors=True)


def _seconds(count: int) -> timedelta:
    return timedelta(seconds=count)


def _state(expires_at: datetime | None, *, public: bool) -> dict[str, Any]:
    return {"expires_at": None if expires_at is None else expires_at.isoformat(), "public": public}


def _is_orphan(name: str) -> bool:
    """Whether the process that made this temporary folder is gone; another machine's are left alone."""
    host, pid, _ = name.removeprefix(f"{_TEMPORARY}-").rsplit("-", 2)
    if host != socket.gethostname() or not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False

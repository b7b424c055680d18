"""What the service remembers of sessions, runs and samplers: the records, and `MetadataStore` with its memory form."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Protocol, TypeVar

from trainer.protocol import LoraConfig, NotFoundError

_Record = TypeVar("_Record")

__all__ = ["MemoryMetadataStore", "MetadataStore", "RunRecord", "SamplerRecord", "SessionRecord", "utc_now"]


def utc_now() -> datetime:
    return datetime.now(UTC)


@dataclass(frozen=True)
class SessionRecord:
    """`status` is `active`, or how the client finished it: `success`, `errored`, `interrupted`."""

    session_id: str
    owner: str
    created: datetime = field(default_factory=utc_now)
    user_metadata: dict[str, str] | None = None
    display_name: str | None = None
    project_id: str | None = None
    status: str = "active"
    detail: str | None = None


@dataclass(frozen=True)
class RunRecord:
    """A training run (a model): what it trains and where it came from."""

    run_id: str
    session_id: str
    owner: str
    base_model: str
    lora: LoraConfig
    created: datetime = field(default_factory=utc_now)
    last_request: datetime = field(default_factory=utc_now)
    user_metadata: dict[str, str] | None = None
    from_path: str | None = None


@dataclass(frozen=True)
class SamplerRecord:
    """A sampling session: a base model, alone or with a checkpoint's or a run's weights."""

    sampler_id: str
    session_id: str
    owner: str
    base_model: str
    model_path: str | None = None
    created: datetime = field(default_factory=utc_now)


class MetadataStore(Protocol):
    """Records by id. `put_*` replaces; `get_*` raises `NotFoundError`; lists are oldest first. Any thread may call."""

    def put_session(self, record: SessionRecord) -> None: ...
    def get_session(self, session_id: str) -> SessionRecord: ...
    def list_sessions(self, owner: str) -> list[SessionRecord]: ...
    def put_run(self, record: RunRecord) -> None: ...
    def get_run(self, run_id: str) -> RunRecord: ...
    def list_runs(self, owner: str) -> list[RunRecord]: ...
    def touch_run(self, run_id: str) -> None:
        """A request came for this run now."""
        ...

    def put_sampler(self, record: SamplerRecord) -> None: ...
    def get_sampler(self, sampler_id: str) -> SamplerRecord: ...
    def list_samplers(self, session_id: str) -> list[SamplerRecord]: ...


class MemoryMetadataStore:
    """Records in dicts; gone with the process. Checkpoints describe themselves, so they outlive it."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._sessions: dict[str, SessionRecord] = {}
        self._runs: dict[str, RunRecord] = {}
        self._samplers: dict[str, SamplerRecord] = {}

    def put_session(self, record: SessionRecord) -> None:
        with self._lock:
            self._sessions[record.session_id] = record

    def get_session(self, session_id: str) -> SessionRecord:
        return _found(self._sessions, session_id, "session_id")

    def list_sessions(self, owner: str) -> list[SessionRecord]:
        with self._lock:
            return [r for r in self._sessions.values() if r.owner == owner]

    def put_run(self, record: RunRecord) -> None:
        with self._lock:
            self._runs[record.run_id] = record

    def get_run(self, run_id: str) -> RunRecord:
        return _found(self._runs, run_id, "training_run_id")

    def list_runs(self, owner: str) -> list[RunRecord]:
        with self._lock:
            return [r for r in self._runs.values() if r.owner == owner]

    def touch_run(self, run_id: str) -> None:
        with self._lock:
            self._runs[run_id] = replace(_found(self._runs, run_id, "training_run_id"), last_request=utc_now())

    def put_sampler(self, record: SamplerRecord) -> None:
        with self._lock:
            self._samplers[record.sampler_id] = record

    def get_sampler(self, sampler_id: str) -> SamplerRecord:
        return _found(self._samplers, sampler_id, "sampling_session_id")

    def list_samplers(self, session_id: str) -> list[SamplerRecord]:
        with self._lock:
            return [r for r in self._samplers.values() if r.session_id == session_id]


def _found(records: dict[str, _Record], key: str, field_name: str) -> _Record:
    record = records.get(key)
    if record is None:
        raise NotFoundError(f"{field_name}: expected one that exists; got {key!r}")
    return record

"""What there is: models served, runs, checkpoints, sessions; and what may be done to a checkpoint.

Runs of earlier processes are known by the checkpoints they left.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TypeVar

from renderers import OptionError, UserError
from trainer.protocol import (
    Checkpoint,
    CheckpointArchiveUrlResponse,
    CheckpointsListResponse,
    Cursor,
    ExternalWeightsUrlsResponse,
    GetSamplerResponse,
    GetServerCapabilitiesResponse,
    GetSessionResponse,
    ListSessionsResponse,
    NotFoundError,
    SupportedModel,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
    check_run_id,
)

from .access import readable_checkpoint
from .archive import pack_bytes, pack_file
from .checkpoints import StoredCheckpoint
from .manifest import MANIFEST
from .metadata import RunRecord
from .service import DEFAULT_OWNER, Service

__all__ = ["Catalog"]

Item = TypeVar("Item")


class Catalog:
    """One owner's view of a service. Raises `NotFoundError` for what is not there or another's."""

    def __init__(self, service: Service, owner: str = DEFAULT_OWNER) -> None:
        self.service = service
        self.owner = owner

    # ---- models and sessions

    def capabilities(self) -> GetServerCapabilitiesResponse:
        """The named models; where any name is served, those loaded so far."""
        loaded = self.service.loaded_bases()
        names = [name for name, _ in self.service.options.models] or list(loaded)
        return GetServerCapabilitiesResponse([SupportedModel(n, loaded.get(n), True, True) for n in names])

    def sessions(self, limit: int = 20, offset: int = 0) -> ListSessionsResponse:
        """Newest first."""
        found = self.service.metadata.list_sessions(self.owner)[::-1]
        return ListSessionsResponse([s.session_id for s in _page(found, limit, offset)])

    def session(self, session_id: str) -> GetSessionResponse:
        record = self.service.session(session_id, self.owner)
        store = self.service.metadata
        return GetSessionResponse(
            training_run_ids=[r.run_id for r in store.list_runs(self.owner) if r.session_id == session_id],
            sampler_ids=[s.sampler_id for s in store.list_samplers(session_id)],
            user_metadata=record.user_metadata,
            display_name=record.display_name,
        )

    def sampler(self, sampler_id: str) -> GetSamplerResponse:
        record = self.service.sampler_record(sampler_id, self.owner)
        return GetSamplerResponse(record.sampler_id, record.base_model, record.model_path)

    # ---- runs

    def training_runs(self, limit: int = 20, offset: int = 0) -> TrainingRunsResponse:
        """Newest first."""
        kept: dict[str, list[StoredCheckpoint]] = {}
        for checkpoint in self._checkpoints(None):
            kept.setdefault(checkpoint.path.training_run_id, []).append(checkpoint)
        live = {r.run_id: r for r in self.service.metadata.list_runs(self.owner)}
        runs = [_training_run(run_id, live.get(run_id), kept.get(run_id, [])) for run_id in kept.keys() | live.keys()]
        runs.sort(key=lambda run: (run.last_request_time, run.training_run_id), reverse=True)
        return TrainingRunsResponse(_page(runs, limit, offset), Cursor(offset, limit, len(runs)))

    def training_run(self, run_id: str) -> TrainingRun:
        kept = self._checkpoints(check_run_id(run_id))
        live = {r.run_id: r for r in self.service.metadata.list_runs(self.owner)}.get(run_id)
        if live is None and not kept:
            raise NotFoundError(f"training_run_id: expected one that exists; got {run_id!r}")
        return _training_run(run_id, live, kept)

    # ---- checkpoints

    def checkpoints(self, run_id: str) -> CheckpointsListResponse:
        """Of one run, oldest first."""
        self.training_run(run_id)
        return CheckpointsListResponse([c.listed() for c in self._checkpoints(run_id)])

    def all_checkpoints(self, limit: int = 100, offset: int = 0) -> CheckpointsListResponse:
        """Of every run, newest first."""
        found = self._checkpoints(None)[::-1]
        page = [c.listed() for c in _page(found, limit, offset)]
        return CheckpointsListResponse(page, Cursor(offset, limit, len(found)))

    def weights_info(self, path: str) -> WeightsInfoResponse:
        """What a checkpoint holds; public ones of others too."""
        info = self._readable(path).info
        lora = info.lora
        return WeightsInfoResponse(
            info.base_model, True, lora.rank, lora.train_unembed, lora.train_mlp, lora.train_attn
        )

    def delete(self, path: str) -> None:
        self.service.checkpoints.delete(self._own(path).path)

    def set_public(self, path: str, public: bool) -> None:
        self.service.checkpoints.set_public(self._own(path).path, public)

    def set_ttl(self, path: str, ttl_seconds: int | None) -> None:
        self.service.checkpoints.set_ttl(self._own(path).path, ttl_seconds)

    # ---- taking one away

    def archive(self, path: str) -> bytes:
        """A `tar.gz` of the checkpoint's files."""
        stored = self._readable(path)
        with self.service.checkpoints.open(stored.path) as folder:
            return pack_bytes(folder)

    def archive_url(self, path: str, folder: Path) -> CheckpointArchiveUrlResponse:
        """A `file:` URL of such an archive, written into `folder`."""
        stored = self._readable(path)
        target = folder / f"{stored.path.training_run_id}-{stored.path.checkpoint_id}.tar.gz".translate(_FLAT)
        with self.service.checkpoints.open(stored.path) as source:
            pack_file(source, target)
        return CheckpointArchiveUrlResponse(target.absolute().as_uri(), _tomorrow())

    def file_urls(self, path: str) -> ExternalWeightsUrlsResponse:
        """`file:` URLs of the checkpoint's own files; good until it is deleted."""
        stored = self._readable(path)
        with self.service.checkpoints.open(stored.path) as folder:
            urls = {f.name: f.absolute().as_uri() for f in sorted(folder.iterdir()) if f.name != MANIFEST}
        return ExternalWeightsUrlsResponse(urls, _tomorrow())

    # ---- inside

    def _checkpoints(self, run_id: str | None) -> list[StoredCheckpoint]:
        return [c for c in self.service.checkpoints.list(run_id) if c.info.owner == self.owner]

    def _readable(self, path: str) -> StoredCheckpoint:
        return readable_checkpoint(self.service.checkpoints, path, self.owner)

    def _own(self, path: str) -> StoredCheckpoint:
        stored = self._readable(path)
        if stored.info.owner != self.owner:
            raise UserError(f"path: expected a checkpoint of one's own; {path} is another's, published")
        return stored


_FLAT = str.maketrans({":": "-", "/": "-"})


def _tomorrow() -> datetime:
    return datetime.now(UTC) + timedelta(days=1)


def _page(items: Sequence[Item], limit: int, offset: int) -> list[Item]:
    for name, value, low in (("limit", limit, 1), ("offset", offset, 0)):
        if not isinstance(value, int) or isinstance(value, bool) or value < low:
            raise OptionError(f"{name}: expected an integer of at least {low}; got {value!r}")
    return list(items[offset : offset + limit])


def _last(checkpoints: list[StoredCheckpoint], kind: str) -> Checkpoint | None:
    found = [c for c in checkpoints if c.path.checkpoint_type == kind]
    return found[-1].listed() if found else None


def _training_run(run_id: str, live: RunRecord | None, kept: list[StoredCheckpoint]) -> TrainingRun:
    """From the record, or from the checkpoints of a run whose process is gone; one of them is there."""
    source = kept[-1].info if live is None else live
    return TrainingRun(
        training_run_id=run_id,
        base_model=source.base_model,
        model_owner=source.owner,
        is_lora=True,
        last_request_time=kept[-1].info.created if live is None else live.last_request,
        lora_rank=source.lora.rank,
        last_checkpoint=_last(kept, "training"),
        last_sampler_checkpoint=_last(kept, "sampler"),
        user_metadata=None if live is None else live.user_metadata,
    )

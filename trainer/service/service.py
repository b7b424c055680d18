"""The service: sessions, training runs in strict order, sampling sessions. What both clients and servers stand on.

Methods check what a caller can get wrong and raise at once; what takes time gives a `Ticket`, whose future ends in a
result or a `RequestFailedError`. Every object has an owner; another owner's object is not found.
"""

from __future__ import annotations

import itertools
import logging
import threading
import uuid
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

from renderers import Datum, OptionError, UserError
from trainer.protocol import (
    AdamParams,
    ForwardBackwardOutput,
    GetInfoResponse,
    LoadWeightsResponse,
    LoraConfig,
    LossFnConfig,
    ModelData,
    NotFoundError,
    OptimStepResponse,
    ParsedCheckpointTinkerPath,
    SampleResponse,
)

from .abandoned import Abandoned, AbandonedQueue
from .access import check_name_is_free, owned, readable_checkpoint, training_checkpoint
from .checkpoints import CheckpointStore, FolderCheckpointStore, check_ttl
from .metadata import MemoryMetadataStore, MetadataStore, RunRecord, SamplerRecord, SessionRecord
from .operations import (
    CreateModel,
    ForwardBackward,
    LoadState,
    OptimStep,
    ReleaseModel,
    Sample,
    SaveState,
    Snapshot,
    Ticket,
)
from .options import ServiceOptions
from .queues import ModelQueue
from .worker import Worker

if TYPE_CHECKING:
    from .compute import Compute

__all__ = ["DEFAULT_OWNER", "FinishStatus", "Service"]

logger = logging.getLogger(__name__)
DEFAULT_OWNER = "local"
FinishStatus = Literal["success", "errored", "interrupted"]
_FINISHED = ("success", "errored", "interrupted")


class Service:
    """Training and sampling on base models of this process.

    Args:
        options: models, device, budgets, checkpoint folder.
        metadata: where records live; memory by default.
        checkpoints: where states live; the options' folder by default.
    """

    def __init__(
        self,
        options: ServiceOptions,
        *,
        metadata: MetadataStore | None = None,
        checkpoints: CheckpointStore | None = None,
    ) -> None:
        self.options = options
        self.metadata: MetadataStore = metadata or MemoryMetadataStore()
        self.checkpoints: CheckpointStore = checkpoints or FolderCheckpointStore(options.checkpoint_dir)
        self.checkpoints.sweep()
        self._numbers = itertools.count(1)
        self._last_number = 0
        self._model_counts: dict[str, int] = {}
        self._sampler_counts: dict[str, int] = {}
        self._abandoned = AbandonedQueue()
        self._lock = threading.RLock()
        self._closed = False
        self._worker = Worker(self._make_compute, self._owner_of, options.tokens_per_pass)

    def _make_compute(self) -> Compute:
        from .compute import Compute

        return Compute(self.options, self.checkpoints, lambda: self._last_number)

    def _owner_of(self, run_id: str) -> str:
        return self.metadata.get_run(run_id).owner

    def close(self, timeout: float | None = None) -> None:
        """Run what was accepted (for `timeout` seconds at most; the rest fails), then stop."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
        if not self._worker.close(timeout):
            self._worker.abandon(UserError("service: closed before this request could run"))
            self._worker.close()

    @property
    def is_closed(self) -> bool:
        return self._closed

    # ---- sessions

    def create_session(
        self,
        owner: str = DEFAULT_OWNER,
        *,
        user_metadata: dict[str, str] | None = None,
        display_name: str | None = None,
        project_id: str | None = None,
    ) -> SessionRecord:
        """A new session; training runs and samplers belong to one."""
        self._check_open()
        record = SessionRecord(
            session_id=f"session-{uuid.uuid4().hex[:16]}",
            owner=owner,
            user_metadata=user_metadata,
            display_name=display_name,
            project_id=project_id,
        )
        self.metadata.put_session(record)
        return record

    def session(self, session_id: str, owner: str = DEFAULT_OWNER) -> SessionRecord:
        """The session; `NotFoundError` when it is not this owner's."""
        return owned(self.metadata.get_session(session_id), owner, "session_id", session_id)

    def finish_session(
        self, session_id: str, status: FinishStatus, detail: str | None = None, owner: str = DEFAULT_OWNER
    ) -> list[Ticket[None]]:
        """End a session: what it was asked still runs, then its models are released. The first reason stays."""
        if status not in _FINISHED:
            raise OptionError(f"status: expected one of {', '.join(_FINISHED)}; got {status!r}")
        record = self.session(session_id, owner)
        if record.status != "active":
            return []
        self.metadata.put_session(replace(record, status=status, detail=detail))
        runs = [r for r in self.metadata.list_runs(owner) if r.session_id == session_id]
        for sampler in self.metadata.list_samplers(session_id):
            self.release_sampler(sampler.sampler_id)
        return [ticket for run in runs if (ticket := self.release_model(run.run_id)) is not None]

    def _active_session(self, session_id: str, owner: str) -> SessionRecord:
        self._check_open()
        self._reap()
        record = self.session(session_id, owner)
        if record.status != "active":
            raise UserError(
                f"session_id: expected a session that is active; {session_id} was finished: {record.status}"
            )
        return record

    def _check_open(self) -> None:
        if self._closed:
            raise UserError("service: it is closed")

    # ---- models

    def create_model(
        self,
        session_id: str,
        base_model: str,
        lora: LoraConfig,
        *,
        user_metadata: dict[str, str] | None = None,
        model_seq_id: int | None = None,
        owner: str = DEFAULT_OWNER,
    ) -> Ticket[str]:
        """A new training run; the ticket ends in its id, `{session_id}:train:{n}`.

        `lora.alpha` is taken from the service's options.
        """
        self.options.place_of(base_model)
        operation = CreateModel(base_model, replace(lora, alpha=self.options.alpha))
        return self._create(session_id, operation, user_metadata, model_seq_id, owner)

    def create_model_from_state(
        self,
        session_id: str,
        path: str,
        *,
        optimizer: bool,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        model_seq_id: int | None = None,
        owner: str = DEFAULT_OWNER,
    ) -> Ticket[str]:
        """A new training run that starts from a checkpoint, with its configuration."""
        stored = training_checkpoint(self.checkpoints, path, owner, optimizer=optimizer)
        name = base_model or stored.info.base_model
        self.options.place_of(name)
        operation = CreateModel(name, stored.info.lora, stored.path, optimizer)
        return self._create(session_id, operation, user_metadata, model_seq_id, owner)

    def _create(
        self,
        session_id: str,
        operation: CreateModel,
        user_metadata: dict[str, str] | None,
        model_seq_id: int | None,
        owner: str,
    ) -> Ticket[str]:
        self._active_session(session_id, owner)
        with self._lock:
            if model_seq_id is None:
                model_seq_id = self._model_counts.get(session_id, 0)
            self._model_counts[session_id] = max(model_seq_id + 1, self._model_counts.get(session_id, 0))
            run_id = f"{session_id}:train:{model_seq_id}"
            with self._worker.condition:
                if any(run.run_id == run_id for run in self.metadata.list_runs(owner)):
                    raise UserError(f"model_seq_id: expected one that is free in this session; {run_id} exists")
                self._worker.queues.add(run_id, first=0)
            self.metadata.put_run(
                RunRecord(
                    run_id=run_id,
                    session_id=session_id,
                    owner=owner,
                    base_model=operation.base_model,
                    lora=operation.lora,
                    user_metadata=user_metadata,
                    from_path=None if operation.path is None else operation.path.tinker_path,
                )
            )
            return self._enqueue(run_id, operation.base_model, operation, 0)

    def release_model(self, run_id: str) -> Ticket[None] | None:
        """Forget a model's adapter after what it was asked has run; None when that is done already."""
        record = self.metadata.get_run(run_id)
        with self._lock:
            if self._closed or self._worker.queues.get(run_id) is None:
                return None
            return self._enqueue(run_id, record.base_model, ReleaseModel(), None)

    def run_record(self, run_id: str, owner: str = DEFAULT_OWNER) -> RunRecord:
        """The training run; `NotFoundError` when it is not this owner's."""
        return owned(self.metadata.get_run(run_id), owner, "model_id", run_id)

    def get_info(self, run_id: str, owner: str = DEFAULT_OWNER) -> GetInfoResponse:
        """What a model is; `arch` is known once its base has been loaded."""
        record = self.run_record(run_id, owner)
        place = self.options.place_of(record.base_model)
        compute = self._worker.compute
        hosted = None if compute is None else compute.bases.get(record.base_model)
        data = ModelData(
            arch=None if hosted is None else str(hosted.base.config.model_type),
            model_name=record.base_model,
            tokenizer_id=place if place != record.base_model else None,
        )
        return GetInfoResponse(
            model_data=data,
            model_id=run_id,
            is_lora=True,
            lora_rank=record.lora.rank,
            model_name=record.base_model,
            lora_alpha=record.lora.alpha,
        )

    def loaded_bases(self) -> dict[str, int | None]:
        """Context length by name of the bases that are in memory."""
        compute = self._worker.compute
        return {} if compute is None else {n: h.base.context_length for n, h in list(compute.bases.items())}

    # ---- training, in each model's order

    def forward(
        self,
        run_id: str,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        loss_fn_config: LossFnConfig | None = None,
        *,
        seq_id: int | None = None,
        owner: str = DEFAULT_OWNER,
    ) -> Ticket[ForwardBackwardOutput]:
        """Logprobs and loss, nothing accumulated. The model must have been created (its ticket done)."""
        return self._submit(run_id, ForwardBackward(data, loss_fn, loss_fn_config, backward=False), seq_id, owner)

    def forward_backward(
        self,
        run_id: str,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        loss_fn_config: LossFnConfig | None = None,
        *,
        seq_id: int | None = None,
        owner: str = DEFAULT_OWNER,
    ) -> Ticket[ForwardBackwardOutput]:
        """Logprobs, loss, and gradients accumulated until `optim_step`."""
        return self._submit(run_id, ForwardBackward(data, loss_fn, loss_fn_config), seq_id, owner)

    def optim_step(
        self, run_id: str, params: AdamParams, *, seq_id: int | None = None, owner: str = DEFAULT_OWNER
    ) -> Ticket[OptimStepResponse]:
        """One AdamW step; refused (and the gradients cleared) when a `forward_backward` before it failed."""
        return self._submit(run_id, OptimStep(params), seq_id, owner)

    def save(
        self,
        run_id: str,
        kind: Literal["training", "sampler", "external"],
        name: str,
        *,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
        seq_id: int | None = None,
        owner: str = DEFAULT_OWNER,
    ) -> Ticket[Any]:
        """A checkpoint of the model as it is at this point of its order.

        Raises:
            OptionError: the name is illegal or taken, the TTL is out of range.
        """
        path = ParsedCheckpointTinkerPath.of(run_id, kind, name)
        check_ttl(ttl_seconds)
        if not overwrite and seq_id is None:
            check_name_is_free(self.checkpoints, path)
        return self._submit(run_id, SaveState(path, ttl_seconds, overwrite, user_metadata), seq_id, owner)

    def load(
        self, run_id: str, path: str, *, optimizer: bool, seq_id: int | None = None, owner: str = DEFAULT_OWNER
    ) -> Ticket[LoadWeightsResponse]:
        """Replace the model's weights (and moments) by a training checkpoint's; accumulated gradients are cleared."""
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
        if parsed.training_run_id != run_id:  # an own one may still be on its way to the disk
            training_checkpoint(self.checkpoints, path, owner, optimizer=optimizer)
        return self._submit(run_id, LoadState(parsed, optimizer), seq_id, owner)

    def reserve(self, run_id: str, count: int, owner: str = DEFAULT_OWNER) -> range:
        """`count` numbers of the model's order, for requests that come later; each must be used or given up."""
        self.run_record(run_id, owner)
        with self._worker.condition:
            return self._queue(run_id).reserve(count)

    def give_up(self, run_id: str, seq_id: int, error: BaseException | None = None) -> None:
        """Nothing comes under this number; with `error` a backward pass should have, and the next step is refused."""
        if error is not None:
            self._worker.call(lambda compute: compute.note_refused(run_id, error)).result()
        with self._worker.condition:
            queue = self._worker.queues.get(run_id)
            if queue is not None:
                queue.settle(seq_id)
                self._worker.condition.notify()

    def _queue(self, run_id: str) -> ModelQueue:
        queue = self._worker.queues.get(run_id)
        if queue is None:
            raise NotFoundError(f"model_id: expected one that exists; {run_id!r} has been released")
        return queue

    def _submit(self, run_id: str, operation: Any, seq_id: int | None, owner: str) -> Ticket[Any]:
        record = self.run_record(run_id, owner)
        if seq_id is None:  # a promised number is welcome to the end
            self._check_open()
        self._reap()
        if isinstance(operation, ForwardBackward):
            self.check_pass(run_id, operation)
        self.metadata.touch_run(run_id)
        with self._lock:
            return self._enqueue(run_id, record.base_model, operation, seq_id)

    def check_pass(self, run_id: str, operation: ForwardBackward) -> None:
        """Refuse what the caller can mend, with the field named."""
        if not operation.data:
            raise OptionError("data: expected at least one datum; got none")
        compute = self._worker.compute
        if compute is None:
            raise UserError(f"model_id: {run_id} is not created yet")
        compute.check_pass(run_id, operation)

    def _enqueue(self, run_id: str, base_model: str, operation: Any, seq_id: int | None) -> Ticket[Any]:
        with self._worker.condition:
            queue = self._queue(run_id)
            place = queue.reserve(1).start if seq_id is None else seq_id
            if seq_id is not None and queue.is_known(seq_id):
                raise OptionError(f"seq_id: expected a number that is new to {run_id}; got {seq_id}")
            number = next(self._numbers)
            ticket: Ticket[Any] = Ticket(f"request-{number}", run_id, base_model, operation, number, place)
            queue.put(place, ticket)
            self._last_number = number
            self._worker.condition.notify()
        return ticket

    # ---- sampling

    def create_sampling_session(
        self,
        session_id: str,
        *,
        base_model: str | None = None,
        model_path: str | None = None,
        owner: str = DEFAULT_OWNER,
    ) -> tuple[SamplerRecord, Ticket[str]]:
        """A sampler of a base model, or of a checkpoint's weights; the ticket ends in its id when they are loaded.

        Raises:
            OptionError: neither is given, the base model is not served.
            NotFoundError: there is no such checkpoint.
        """
        self._active_session(session_id, owner)
        path: ParsedCheckpointTinkerPath | None = None
        if model_path is not None:
            stored = readable_checkpoint(self.checkpoints, model_path, owner)
            path, base_model = stored.path, base_model or stored.info.base_model
        if base_model is None:
            raise OptionError("model_path: expected model_path or base_model; got neither")
        self.options.place_of(base_model)
        record = self._new_sampler(session_id, base_model, model_path, owner)
        ticket = self._call_ticket(record, lambda compute: compute.open_sampler(record.sampler_id, base_model, path))
        return record, ticket

    def snapshot(
        self, run_id: str, *, inflight: bool = False, seq_id: int | None = None, owner: str = DEFAULT_OWNER
    ) -> tuple[SamplerRecord, Ticket[str]]:
        """A sampler of the model's weights at this point of its order.

        In flight, all such samplers of the model share the weights of the last one made; otherwise later steps never
        touch them.
        """
        run = self.run_record(run_id, owner)
        record = self._new_sampler(run.session_id, run.base_model, None, owner)
        return record, self._submit(run_id, Snapshot(record.sampler_id, inflight), seq_id, owner)

    def _new_sampler(self, session_id: str, base_model: str, model_path: str | None, owner: str) -> SamplerRecord:
        with self._lock:
            count = self._sampler_counts.get(session_id, 0)
            self._sampler_counts[session_id] = count + 1
        record = SamplerRecord(f"{session_id}:sample:{count}", session_id, owner, base_model, model_path)
        self.metadata.put_sampler(record)
        return record

    def sampler_record(self, sampler_id: str, owner: str = DEFAULT_OWNER) -> SamplerRecord:
        """The sampling session; `NotFoundError` when it is not this owner's."""
        return owned(self.metadata.get_sampler(sampler_id), owner, "sampling_session_id", sampler_id)

    def sample(self, operation: Sample, owner: str = DEFAULT_OWNER) -> Ticket[SampleResponse]:
        """Continue a prompt. The sampler's weights must be there (its ticket done).

        Raises:
            UserError: the prompt is empty, too long or no text of this vocabulary; a count is impossible.
        """
        record = self.sampler_record(operation.sampler_id, owner)
        self._check_open()
        self._reap()
        compute = self._worker.compute
        if compute is None:
            raise UserError(f"sampling_session_id: {record.sampler_id} is not created yet")
        number = next(self._numbers)
        ticket: Ticket[SampleResponse] = Ticket(
            f"request-{number}", record.sampler_id, record.base_model, operation, number
        )
        compute.sample(ticket)
        self._worker.wake()
        return ticket

    def abandon(self, what: Abandoned) -> None:
        """A client object is gone: let go of its model or sampler soon. Takes no lock, so a finalizer may call it."""
        self._abandoned.add(what)

    def _reap(self) -> None:
        self._abandoned.release(self.release_sampler, self.release_model)

    def release_sampler(self, sampler_id: str) -> None:
        """Let go of a sampling session's weights; what it was asked still runs."""
        if not self._closed:
            self._worker.call(lambda compute: compute.close_sampler(sampler_id))

    def _call_ticket(self, record: SamplerRecord, function: Callable[[Compute], str]) -> Ticket[str]:
        number = next(self._numbers)
        ticket: Ticket[str] = Ticket(f"request-{number}", record.sampler_id, record.base_model, None, number)

        def run(compute: Compute) -> None:
            if ticket.start():
                try:
                    ticket.succeed(function(compute))
                except BaseException as error:
                    ticket.fail(error)

        self._worker.call(run)
        return ticket

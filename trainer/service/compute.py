"""What the worker does with a request: the one place of the service that touches torch.

Everything here runs on the worker's thread, but for `check_pass` and `sample`, which read what stays.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from renderers import OptionError, UserError
from trainer.engine import AdapterLayout, AdapterWeights, BaseModel, Engine, Request, open_engine
from trainer.protocol import (
    ForwardBackwardOutput,
    LoadWeightsResponse,
    LoraConfig,
    OptimStepResponse,
    ParsedCheckpointTinkerPath,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)

from .adapter_files import read_state, write_state
from .checkpoints import CheckpointInfo, CheckpointStore
from .disk import DiskThread
from .metadata import utc_now
from .operations import CreateModel, ForwardBackward, LoadState, OptimStep, ReleaseModel, SaveState, Snapshot, Ticket
from .options import ServiceOptions
from .sampling import Sampling

__all__ = ["Compute", "HostedBase", "WeightsSlot"]

logger = logging.getLogger(__name__)
# How often a save also deletes what has expired.
_SWEEP_SECONDS = 600.0


@dataclass
class WeightsSlot:
    """What a sampling session samples from; shared and refilled for in-flight ones.

    Attributes:
        base_model: on which base.
        adapter_id: the name that the weights' version counts under.
        weights: None is the base alone.
    """

    base_model: str
    adapter_id: str = ""
    weights: AdapterWeights | None = None


@dataclass(frozen=True)
class HostedBase:
    """A loaded base and its engine."""

    name: str
    base: BaseModel
    engine: Engine


@dataclass
class _Model:
    """A model's adapter, and what went wrong since its last step.

    Attributes:
        hosted: where it lives.
        owner: whose it is.
        failed: the number after which later requests knew of a failed backward pass, and what it was.
        inflight: the shared slot of its in-flight samplers.
    """

    hosted: HostedBase
    owner: str
    failed: tuple[int, str] | None = None
    inflight: WeightsSlot | None = None


class Compute:
    """Bases, adapters and sampler weights.

    Args:
        options: where bases come from.
        checkpoints: where states go.
        last_number: the number of the request accepted last.
    """

    def __init__(self, options: ServiceOptions, checkpoints: CheckpointStore, last_number: Callable[[], int]) -> None:
        self.options = options
        self.checkpoints = checkpoints
        self.bases: dict[str, HostedBase] = {}
        self.slots: dict[str, WeightsSlot] = {}
        self.sampling = Sampling(options, self.host)
        self._models: dict[str, _Model] = {}
        self._last_number = last_number
        self._disk = DiskThread()
        self._next_sweep = 0.0

    def close(self) -> None:
        """Wait for what is being written, then let go of everything."""
        self._disk.close()
        self._models.clear()
        self.slots.clear()
        for hosted in self.bases.values():
            hosted.engine.close()
        self.bases.clear()

    # ---- bases

    def host(self, base_model: str) -> HostedBase:
        """The base, loaded on first use; `OptionError` when it cannot be."""
        if base_model not in self.bases:
            import torch

            options = self.options
            device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
            dtype = options.dtype or ("bfloat16" if device.startswith("cuda") else "float32")
            engine = open_engine(
                options.place_of(base_model),
                dtype=dtype,
                device=device,
                shard_base=options.shard_base,
                tokens_per_pass=options.tokens_per_pass,
                memory_bytes=options.memory_bytes,
            )
            self.bases[base_model] = HostedBase(base_model, engine.base, engine)
        return self.bases[base_model]

    # ---- checks, on the caller's thread

    def check_pass(self, model_id: str, operation: ForwardBackward) -> None:
        """Refuse what the caller can mend, with the field named."""
        self._model(model_id).hosted.engine.check(_request(model_id, operation))

    def sample(self, ticket: Ticket[Any]) -> None:
        """Queue a sampling request; raises what the caller can mend, with the field named."""
        slot = self.slots.get(ticket.operation.sampler_id)
        if slot is None:
            raise UserError(
                f"sampling_session_id: {ticket.operation.sampler_id} is not there: not created, or released"
            )
        self.sampling.submit(ticket, slot)

    # ---- passes

    def run_passes(self, tickets: list[Ticket[Any]]) -> list[ForwardBackwardOutput | BaseException]:
        """Several models' passes as one; when that fails, each alone, so that one fault stays one request's."""
        hosted = self._models[tickets[0].model_id].hosted
        requests = [_request(t.model_id, t.operation) for t in tickets]
        try:
            outcomes: list[Any] = hosted.engine.forward_backward_many(requests)
        except Exception as error:
            if len(tickets) > 1:
                logger.warning("a pass of %d requests failed, each runs alone: %s", len(tickets), error)
                return [self.run_passes([ticket])[0] for ticket in tickets]
            outcomes = [error]
        for ticket, outcome in zip(tickets, outcomes, strict=True):
            if ticket.operation.backward:
                self.note_backward(ticket, outcome if isinstance(outcome, BaseException) else None)
        return outcomes

    def note_backward(self, ticket: Ticket[Any], error: BaseException | None) -> None:
        """Remember a failed backward pass until a later one, sent by someone who could know, succeeds."""
        model = self._models.get(ticket.model_id)
        if model is None:
            return
        if error is not None:
            model.failed = (self._last_number(), f"{type(error).__name__}: {error}")
        elif model.failed is not None and ticket.number > model.failed[0]:
            model.failed = None

    def note_refused(self, model_id: str, error: BaseException) -> None:
        """A backward pass that never came (its loss failed on the client's side)."""
        model = self._models.get(model_id)
        if model is not None:
            model.failed = (self._last_number(), f"{type(error).__name__}: {error}")

    # ---- everything else, one at a time

    def run(self, ticket: Ticket[Any], owner: str) -> Any:
        """The result, or a future of it where only the disk is still at work."""
        operation = ticket.operation
        match operation:
            case CreateModel():
                return self._create(ticket.model_id, operation, owner)
            case OptimStep():
                return self._step(ticket.model_id, operation)
            case SaveState():
                return self._save(ticket.model_id, operation)
            case LoadState():
                return self._load(ticket.model_id, operation)
            case Snapshot():
                return self._snapshot(ticket.model_id, operation)
            case ReleaseModel():
                return self._release(ticket.model_id)
            case _:
                raise AssertionError(f"no such operation: {operation!r}")

    def _model(self, model_id: str) -> _Model:
        if model_id not in self._models:
            raise UserError(f"model_id: {model_id} is not there: its creation failed or its session has ended")
        return self._models[model_id]

    def _create(self, model_id: str, operation: CreateModel, owner: str) -> str:
        hosted = self.host(operation.base_model)
        hosted.engine.create_adapter(operation.lora, model_id)
        self._models[model_id] = _Model(hosted, owner)
        if operation.path is not None:
            try:
                self._load(model_id, LoadState(operation.path, operation.optimizer))
            except BaseException:
                self._release(model_id)
                raise
        return model_id

    def _step(self, model_id: str, operation: OptimStep) -> OptimStepResponse:
        model = self._model(model_id)
        if model.failed is not None:
            _, why = model.failed
            model.failed = None
            model.hosted.engine.clear_gradients(model_id)
            raise UserError(
                f"optim_step: expected every forward_backward before it to succeed; one failed ({why}); "
                "nothing was stepped, and the accumulated gradients are cleared"
            )
        return model.hosted.engine.optim_step(model_id, operation.params)

    def _save(self, model_id: str, operation: SaveState) -> Any:
        model = self._model(model_id)
        engine, path = model.hosted.engine, operation.path
        adapter = engine.adapter(model_id)
        training = path.checkpoint_type == "training"
        if adapter.pending and training:
            logger.warning(
                "%s: gradients of %d passes are not part of the checkpoint", path.tinker_path, adapter.pending
            )
        state = engine.state_dict(model_id, optimizer=training)
        info = CheckpointInfo(
            base_model=model.hosted.name,
            lora=replace(adapter.config, seed=adapter.seed),
            step=adapter.step,
            has_optimizer=training,
            owner=model.owner,
            created=utc_now(),
            user_metadata=operation.user_metadata,
        )

        def write() -> Any:
            if time.monotonic() > self._next_sweep:
                self._next_sweep = time.monotonic() + _SWEEP_SECONDS
                self.checkpoints.sweep()
            self.checkpoints.write(
                path,
                info,
                lambda folder: write_state(folder, engine.base, adapter.layout, state),
                ttl_seconds=operation.ttl_seconds,
                overwrite=operation.overwrite,
            )
            return _saved(path)

        return self._disk.submit(write)

    def _load(self, model_id: str, operation: LoadState) -> LoadWeightsResponse:
        engine = self._model(model_id).hosted.engine
        adapter = engine.adapter(model_id)
        self._disk.flush()  # a path may be read as soon as its saving was asked for
        check_compatible(self.checkpoints.find(operation.path).info.lora, adapter.config, operation.path)
        with self.checkpoints.open(operation.path) as folder:
            state = read_state(folder, adapter.layout, optimizer=operation.optimizer)
        engine.load_state(model_id, state, optimizer=operation.optimizer)
        self._models[model_id].failed = None
        return LoadWeightsResponse(operation.path.tinker_path, model_id)

    def _snapshot(self, model_id: str, operation: Snapshot) -> str:
        model = self._model(model_id)
        self.sampling.prepare(model.hosted.name)
        weights = model.hosted.engine.snapshot(model_id)
        if operation.inflight:
            model.inflight = model.inflight or WeightsSlot(model.hosted.name, model_id)
            model.inflight.weights = weights
            self.slots[operation.sampler_id] = model.inflight
        else:
            self.slots[operation.sampler_id] = WeightsSlot(model.hosted.name, model_id, weights)
        return operation.sampler_id

    def _release(self, model_id: str) -> None:
        model = self._models.pop(model_id, None)
        if model is not None:
            model.hosted.engine.remove_adapter(model_id)

    # ---- sampler weights

    def open_sampler(self, sampler_id: str, base_model: str, path: ParsedCheckpointTinkerPath | None) -> str:
        """Weights of a checkpoint, or none, for a sampling session."""
        base = self.host(base_model).base
        self.sampling.prepare(base_model)
        slot = WeightsSlot(base_model)
        if path is not None:
            self._disk.flush()  # a path may be read as soon as its saving was asked for
            slot.adapter_id = path.tinker_path
            lora = self.checkpoints.find(path).info.lora
            layout = AdapterLayout(lora, base.projections)
            with self.checkpoints.open(path) as folder:
                params = read_state(folder, layout, optimizer=False)["params"]
            slot.weights = layout.weights(params.to(base.device, base.dtype), None, 0)
        self.slots[sampler_id] = slot
        return sampler_id

    def close_sampler(self, sampler_id: str) -> None:
        self.slots.pop(sampler_id, None)


def _request(model_id: str, operation: ForwardBackward) -> Request:
    return Request(model_id, operation.data, operation.loss_fn, operation.loss_fn_config, operation.backward)


def _saved(path: ParsedCheckpointTinkerPath) -> Any:
    match path.checkpoint_type:
        case "training":
            return SaveWeightsResponse(path.tinker_path)
        case "sampler":
            return SaveWeightsForSamplerResponse(path.tinker_path)
        case "external":
            return SaveWeightsExternalResponse(path.tinker_path)


def check_compatible(saved: LoraConfig, own: LoraConfig, path: ParsedCheckpointTinkerPath) -> None:
    """A checkpoint only fits an adapter of the same shape and scale.

    Raises:
        OptionError: rank, alpha or a flag differs.
    """
    for name in ("rank", "alpha", "train_mlp", "train_attn", "train_unembed"):
        if getattr(saved, name) != getattr(own, name):
            raise OptionError(
                f"path: expected a checkpoint with {name}={getattr(own, name)}, as this model has; "
                f"{path.tinker_path} has {getattr(saved, name)}"
            )

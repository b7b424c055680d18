"""What can be asked of a model or a sampler, as plain values. No torch here: the worker knows how each is done."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import numpy as np
import numpy.typing as npt

from renderers import Datum
from trainer.protocol import (
    AdamParams,
    LoraConfig,
    LossFnConfig,
    ParsedCheckpointTinkerPath,
    SamplingParams,
    request_failed,
)

__all__ = [
    "CreateModel",
    "ForwardBackward",
    "LoadState",
    "Operation",
    "OptimStep",
    "ReleaseModel",
    "Sample",
    "SaveState",
    "Snapshot",
    "Ticket",
]

Result = TypeVar("Result")


@dataclass(frozen=True)
class CreateModel:
    """A new adapter; with `path` it starts from that checkpoint, with `optimizer` from its moments too."""

    base_model: str
    lora: LoraConfig
    path: ParsedCheckpointTinkerPath | None = None
    optimizer: bool = False


@dataclass(frozen=True)
class ForwardBackward:
    """`backward` False is `forward`."""

    data: Sequence[Datum] = field(repr=False)
    loss_fn: str
    loss_fn_config: LossFnConfig | None = None
    backward: bool = True

    @property
    def num_tokens(self) -> int:
        return sum(datum.model_input.length for datum in self.data)


@dataclass(frozen=True)
class OptimStep:
    params: AdamParams


@dataclass(frozen=True)
class SaveState:
    """The path's type says what is saved: moments only for training checkpoints."""

    path: ParsedCheckpointTinkerPath
    ttl_seconds: int | None = None
    overwrite: bool = False
    user_metadata: dict[str, str] | None = None


@dataclass(frozen=True)
class LoadState:
    path: ParsedCheckpointTinkerPath
    optimizer: bool = False


@dataclass(frozen=True)
class Snapshot:
    """The weights as they are now, for a sampling session; `inflight` shares and updates the model's one set."""

    sampler_id: str
    inflight: bool = False


@dataclass(frozen=True)
class ReleaseModel:
    """The adapter is no longer needed."""


@dataclass(frozen=True)
class Sample:
    """`prompt`: int32 (n,)."""

    sampler_id: str
    prompt: npt.NDArray[np.int32] = field(repr=False)
    params: SamplingParams
    num_samples: int = 1
    prompt_logprobs: bool = False
    topk_prompt_logprobs: int = 0
    topk_sample_logprobs: int = 0


Operation = CreateModel | ForwardBackward | OptimStep | SaveState | LoadState | Snapshot | ReleaseModel | Sample


@dataclass(frozen=True, eq=False)
class Ticket(Generic[Result]):
    """An accepted request.

    Attributes:
        request_id: its name outside.
        model_id: the model whose order it keeps; the sampler's id for sampling.
        base_model: whose engine runs it.
        operation: what to do.
        number: grows with every acceptance of the service.
        seq_id: its place in the model's order; 0 for sampling.
        future: its end: a result, or a `RequestFailedError`.
    """

    request_id: str
    model_id: str
    base_model: str
    operation: Any
    number: int
    seq_id: int = 0
    future: Future[Result] = field(default_factory=Future)

    def start(self) -> bool:
        """Whether to run it: False when the caller has cancelled it."""
        return self.future.running() or self.future.set_running_or_notify_cancel()

    def succeed(self, result: Result) -> None:
        self.future.set_result(result)

    def fail(self, error: BaseException) -> None:
        self.future.set_exception(request_failed(error, self.request_id))

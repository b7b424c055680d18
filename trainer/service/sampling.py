"""The samplers of the worker, one per base: made and stepped on its thread, asked from any."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from renderers import UserError, get_tokenizer
from trainer.protocol import SampleResponse
from trainer.sampler import AdapterSnapshot, Sampler

from .operations import Sample, Ticket

if TYPE_CHECKING:
    from .compute import HostedBase, WeightsSlot
    from .options import ServiceOptions

__all__ = ["Sampling"]

logger = logging.getLogger(__name__)


class Sampling:
    """Samplers by base model.

    Args:
        options: the samplers' options, and where tokenizers lie.
        host: gives a loaded base; called on the worker's thread.
    """

    def __init__(self, options: ServiceOptions, host: Callable[[str], HostedBase]) -> None:
        self._options = options
        self._host = host
        self._samplers: dict[str, Sampler] = {}
        self._asked: dict[str, set[Ticket[SampleResponse]]] = {}
        self._lock = threading.Lock()

    # ---- any thread

    def submit(self, ticket: Ticket[SampleResponse], slot: WeightsSlot) -> None:
        """Queue the request; raises the `UserError` family for what the caller can mend, the field named."""
        operation: Sample = ticket.operation
        sampler = self._samplers.get(slot.base_model)
        if sampler is None:
            raise UserError(f"sampling_session_id: {operation.sampler_id} is not created yet")
        source = sampler.submit(
            operation.prompt,
            operation.params,
            operation.num_samples,
            adapter=None if slot.weights is None else AdapterSnapshot(slot.adapter_id, slot.weights),
            include_prompt_logprobs=operation.prompt_logprobs,
            topk_prompt_logprobs=operation.topk_prompt_logprobs,
            topk_sample_logprobs=operation.topk_sample_logprobs,
        )
        with self._lock:
            self._asked[slot.base_model].add(ticket)
        source.add_done_callback(lambda done: self._settle(slot.base_model, ticket, done))
        ticket.future.add_done_callback(lambda done: source.cancel() if done.cancelled() else None)

    def _settle(self, base_model: str, ticket: Ticket[SampleResponse], done: Future[SampleResponse]) -> None:
        with self._lock:
            self._asked[base_model].discard(ticket)
        try:
            if done.cancelled():
                ticket.future.cancel()
            elif (error := done.exception()) is not None:
                ticket.fail(error)
            else:
                ticket.succeed(_named(done.result(), ticket.request_id))
        except InvalidStateError:
            logger.debug("%s was cancelled as it ended", ticket.request_id)

    # ---- the worker's thread

    def prepare(self, base_model: str) -> None:
        """Make the base's sampler; `OptionError` when the base cannot be sampled from."""
        if base_model in self._samplers:
            return
        hosted = self._host(base_model)
        options: dict[str, Any] = {
            "decode": _decoder(self._options.place_of(base_model)),
            **dict(self._options.sampler),
        }
        with self._lock:
            self._asked.setdefault(base_model, set())
        self._samplers[base_model] = Sampler(hosted.base, **options)

    @property
    def busy(self) -> bool:
        return any(sampler.busy for sampler in self._samplers.values())

    def step(self) -> None:
        """One step of every sampler. A fault that a sampler cannot pin on a request fails what it was asked."""
        for base_model, sampler in list(self._samplers.items()):
            if not sampler.busy:
                continue
            try:
                sampler.step()
            except Exception as error:
                logger.exception("sampler of %s failed; it starts afresh", base_model)
                self._start_afresh(base_model, error)

    def _start_afresh(self, base_model: str, error: Exception) -> None:
        with self._lock:
            left = self._asked[base_model]
            self._asked[base_model] = set()
        del self._samplers[base_model]
        self.prepare(base_model)
        for ticket in left:
            try:
                ticket.fail(error)
            except InvalidStateError:
                logger.debug("%s was cancelled as it failed", ticket.request_id)


def _decoder(place: str) -> Callable[[Sequence[int]], str] | None:
    """Ids to text, for stop strings; None where the model's folder has no tokenizer."""
    if Path(place).is_dir() and not (Path(place) / "tokenizer.json").exists():
        return None
    try:
        tokenizer = get_tokenizer(place)
    except (UserError, OSError) as error:
        logger.warning("%s: no tokenizer, so no stop strings: %s", place, error)
        return None
    return tokenizer.decode


def _named(response: SampleResponse, request_id: str) -> SampleResponse:
    """Every sequence gets a name that is its own within the service."""
    sequences = [replace(s, sequence_id=f"{request_id}:{i}") for i, s in enumerate(response.sequences)]
    return replace(response, sequences=sequences)

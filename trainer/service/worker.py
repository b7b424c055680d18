"""The thread that owns the device: takes what is ready, runs it, settles it.

    take a batch of passes or one other request -> run -> settle -> let the samplers step -> again

Training and sampling share the device by time: after a batch of t seconds, waiting samples get t seconds of steps.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import CancelledError, Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from renderers import UserError

from .operations import ForwardBackward, ReleaseModel, Ticket
from .queues import Queues

if TYPE_CHECKING:
    from .compute import Compute

__all__ = ["Worker"]

logger = logging.getLogger(__name__)
# Without an option: what a device's pass holds by default.
_COALESCE_TOKENS = 4096


class Worker:
    """Runs requests until it is closed.

    Args:
        make_compute: makes the torch side, on the worker's thread, before its first work.
        owner_of: whose a model is.
        max_tokens: most tokens in one coalesced pass.
    """

    def __init__(
        self, make_compute: Callable[[], Compute], owner_of: Callable[[str], str], max_tokens: int | None
    ) -> None:
        self.condition = threading.Condition()
        self.queues = Queues()
        self.compute: Compute | None = None
        self._calls: deque[tuple[Callable[[Compute], Any], Future[Any]]] = deque()
        self._make_compute = make_compute
        self._owner_of = owner_of
        self._max_tokens = max_tokens or _COALESCE_TOKENS
        self._closing = self._ended = False
        self._debt = 0.0
        self._thread = threading.Thread(target=self._run, name="datumloom-compute", daemon=True)
        self._thread.start()

    # ---- any thread

    def wake(self) -> None:
        """Look again: a sampler has been asked."""
        with self.condition:
            self.condition.notify()

    def call(self, function: Callable[[Compute], Any]) -> Future[Any]:
        """Run `function(compute)` on the worker's thread, soon; `UserError` when that thread has ended."""
        future: Future[Any] = Future()
        with self.condition:
            if self._ended:
                raise UserError("service: it is closed")
            self._calls.append((function, future))
            self.condition.notify()
        return future

    def close(self, timeout: float | None = None) -> bool:
        """Finish everything that was accepted, then stop; False when that took longer than `timeout` seconds."""
        with self.condition:
            self._closing = True
            self.condition.notify()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def abandon(self, error: BaseException) -> None:
        """Fail everything that has not begun."""
        with self.condition:
            left = self.queues.drain()
            self._closing = True
            self.condition.notify()
        for ticket in left:
            if ticket.start():
                ticket.fail(error)

    # ---- the worker's thread

    def _run(self) -> None:
        while (work := self._wait()) is not None:
            self._do(work)
        if self.compute is not None:
            self.compute.close()

    def _wait(self) -> _Work | None:
        """The next work; None when closed and done."""
        with self.condition:
            while True:
                work = self._take()
                if work is not None:
                    return work
                if self._closing and self.queues.is_empty:
                    self._ended = True
                    return None
                self.condition.wait()

    def _take(self) -> _Work | None:
        sampling = self._is_sampling()
        owes = sampling and self._debt > 0
        work = _Work(
            calls=list(self._calls),
            batch=[] if owes else self.queues.next_batch(self._max_tokens),
        )
        self._calls.clear()
        return work if work.calls or work.batch or sampling else None

    def _do(self, work: _Work) -> None:
        for function, future in work.calls:
            _settle_call(future, lambda function=function: function(self._ready()))
        started = time.monotonic()
        if work.batch:
            self._run_batch(work.batch)
            self._debt += time.monotonic() - started
        elif self._is_sampling() and self.compute is not None:
            self.compute.sampling.step()
            self._debt = max(0.0, self._debt - (time.monotonic() - started))
        if not self._is_sampling():
            self._debt = 0.0

    def _is_sampling(self) -> bool:
        return self.compute is not None and self.compute.sampling.busy

    def _ready(self) -> Compute:
        if self.compute is None:
            self.compute = self._make_compute()
        return self.compute

    # ---- training

    def _run_batch(self, batch: list[Ticket[Any]]) -> None:
        started = [ticket for ticket in batch if ticket.start()]
        cancelled = [ticket for ticket in batch if ticket.future.cancelled()]
        try:
            compute = self._ready()
            for ticket in cancelled:
                if isinstance(ticket.operation, ForwardBackward) and ticket.operation.backward:
                    compute.note_backward(ticket, CancelledError("cancelled by the caller"))
            if started and isinstance(started[0].operation, ForwardBackward):
                _settle_all(started, compute.run_passes(started))
            elif started:
                _settle_one(started[0], compute.run(started[0], self._owner_of(started[0].model_id)))
        except BaseException as error:
            logger.debug("request failed", exc_info=True)
            _settle_all([ticket for ticket in started if not ticket.future.done()], error)
        with self.condition:
            for ticket in batch:
                queue = self.queues.get(ticket.model_id)
                if queue is not None:
                    queue.done()
                    if isinstance(ticket.operation, ReleaseModel):
                        self.queues.remove(ticket.model_id)


@dataclass(frozen=True)
class _Work:
    """What one turn of the worker does."""

    calls: list[tuple[Callable[[Compute], Any], Future[Any]]]
    batch: list[Ticket[Any]]


def _settle_call(future: Future[Any], function: Callable[[], Any]) -> None:
    if future.set_running_or_notify_cancel():
        try:
            future.set_result(function())
        except BaseException as error:
            future.set_exception(error)


def _settle_all(tickets: list[Ticket[Any]], outcomes: list[Any] | BaseException) -> None:
    if isinstance(outcomes, BaseException):
        outcomes = [outcomes] * len(tickets)
    for ticket, outcome in zip(tickets, outcomes, strict=True):
        if isinstance(outcome, BaseException):
            ticket.fail(outcome)
        else:
            ticket.succeed(outcome)


def _settle_one(ticket: Ticket[Any], outcome: Any) -> None:
    """A result, or the future of one that only the disk still works on."""
    if not isinstance(outcome, Future):
        ticket.succeed(outcome)
        return

    def settle(done: Future[Any]) -> None:
        error = done.exception()
        _settle_all([ticket], error if error is not None else [done.result()])

    outcome.add_done_callback(settle)

"""Strict order inside a model, taking turns between models, small requests of several models together.

Nothing here waits for company: a batch is what happens to be ready now.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

from .operations import ForwardBackward, Ticket

__all__ = ["ModelQueue", "Queues"]


class ModelQueue:
    """One model's requests, run by their numbers 1, 2, 3, … one at a time.

    Numbers may arrive out of order (a client sends the chunks of one call in parallel). A number that will never come
    (its request was refused) is `settled`, or the model would wait for it forever.
    """

    def __init__(self, first: int) -> None:
        self._next = first
        self._last = first - 1
        self._waiting: dict[int, Ticket[Any] | None] = {}
        self.running = False

    def reserve(self, count: int) -> range:
        """The next `count` numbers; each must be put or settled later."""
        start = self._last + 1
        self._last += count
        return range(start, start + count)

    def put(self, seq_id: int, ticket: Ticket[Any]) -> None:
        self._last = max(self._last, seq_id)
        self._waiting[seq_id] = ticket

    def settle(self, seq_id: int) -> None:
        """Nothing comes under this number any more."""
        self._last = max(self._last, seq_id)
        if seq_id >= self._next:
            self._waiting.setdefault(seq_id, None)
            self._skip()

    def is_known(self, seq_id: int) -> bool:
        """Whether the number has come already (done, waiting or settled)."""
        return seq_id < self._next or seq_id in self._waiting

    def head(self) -> Ticket[Any] | None:
        """What may run now."""
        return None if self.running else self._waiting.get(self._next)

    def start(self) -> None:
        self.running = True

    def done(self) -> None:
        """The head has ended."""
        self.running = False
        del self._waiting[self._next]
        self._next += 1
        self._skip()

    def _skip(self) -> None:
        while not self.running and self._next in self._waiting and self._waiting[self._next] is None:
            del self._waiting[self._next]
            self._next += 1

    def drain(self) -> list[Ticket[Any]]:
        """Everything that has not run, taken out."""
        left = [t for seq_id, t in sorted(self._waiting.items()) if t is not None and not self._is_running(seq_id)]
        self._waiting = {s: t for s, t in self._waiting.items() if self._is_running(s)}
        self._last = self._next if self.running else self._next - 1
        return left

    def _is_running(self, seq_id: int) -> bool:
        return self.running and seq_id == self._next

    @property
    def is_empty(self) -> bool:
        """Whether nothing runs, waits or is promised (a number that was reserved)."""
        return not self.running and self._next > self._last


class Queues:
    """All models' queues. Not locked: whoever owns it locks."""

    def __init__(self) -> None:
        self._queues: OrderedDict[str, ModelQueue] = OrderedDict()

    def add(self, model_id: str, first: int = 1) -> ModelQueue:
        self._queues[model_id] = ModelQueue(first)
        return self._queues[model_id]

    def get(self, model_id: str) -> ModelQueue | None:
        return self._queues.get(model_id)

    def remove(self, model_id: str) -> None:
        self._queues.pop(model_id, None)

    @property
    def is_empty(self) -> bool:
        return all(queue.is_empty for queue in self._queues.values())

    def next_batch(self, max_tokens: int) -> list[Ticket[Any]]:
        """What to run next, marked as running: one request, or passes of several models on one base.

        The model at the front goes first and then to the back. When its request is a pass, the other models' passes
        that are ready join up to `max_tokens`. One model never has two requests in a batch: how its gradients are
        summed must not depend on how fast its requests came.
        """
        batch: list[Ticket[Any]] = []
        tokens = 0
        for queue in self._queues.values():
            ticket = queue.head()
            if ticket is None or (batch and not _joins(ticket, batch[0])):
                continue
            cost = ticket.operation.num_tokens if isinstance(ticket.operation, ForwardBackward) else 0
            if batch and tokens + cost > max_tokens:
                continue
            batch.append(ticket)
            tokens += cost
            if cost == 0 or tokens >= max_tokens:
                break
        for ticket in batch:
            self._queues[ticket.model_id].start()
            self._queues.move_to_end(ticket.model_id)
        return batch

    def drain(self) -> list[Ticket[Any]]:
        """Everything that has not run, taken out."""
        return [ticket for queue in self._queues.values() for ticket in queue.drain()]


def _joins(ticket: Ticket[Any], first: Ticket[Any]) -> bool:
    passes = isinstance(ticket.operation, ForwardBackward) and isinstance(first.operation, ForwardBackward)
    return passes and ticket.base_model == first.base_model

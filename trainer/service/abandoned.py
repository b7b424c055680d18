"""Models and samplers whose client object is gone."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from .operations import Ticket

__all__ = ["Abandoned", "AbandonedQueue"]


@dataclass(frozen=True)
class Abandoned:
    """A model or sampler that nobody holds any more, and the ticket of its making."""

    key: str
    is_sampler: bool
    created: Ticket[Any]


class AbandonedQueue:
    """Filled by finalizers, which may run anywhere and so take no lock; emptied at the service's next call."""

    def __init__(self) -> None:
        self._waiting: deque[Abandoned] = deque()

    def add(self, what: Abandoned) -> None:
        self._waiting.append(what)

    def release(self, release_sampler: Callable[[str], Any], release_model: Callable[[str], Any]) -> None:
        """Release all but those that are still being made."""
        for _ in range(len(self._waiting)):
            try:
                what = self._waiting.popleft()
            except IndexError:  # another thread was faster
                return
            if not what.created.future.done():
                self._waiting.append(what)
            elif what.is_sampler:
                release_sampler(what.key)
            else:
                release_model(what.key)

"""One thread that writes, so that the disk never holds up the device and saves end in their order.

Not a `ThreadPoolExecutor`: those take no more work once the interpreter has begun to exit, which is when a program's
last save may still be on its way.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

__all__ = ["DiskThread"]


class DiskThread:
    """Runs functions one after another."""

    def __init__(self) -> None:
        self._work: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]] | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="datumloom-disk", daemon=True)
        self._thread.start()

    def submit(self, function: Callable[[], Any]) -> Future[Any]:
        """The future of its result."""
        future: Future[Any] = Future()
        self._work.put((function, future))
        return future

    def flush(self) -> None:
        """Wait for everything submitted so far."""
        self.submit(lambda: None).result()

    def close(self) -> None:
        """Run what was submitted, then stop."""
        self._work.put(None)
        self._thread.join()

    def _run(self) -> None:
        while (work := self._work.get()) is not None:
            function, future = work
            try:
                future.set_result(function())
            except BaseException as error:
                future.set_exception(error)

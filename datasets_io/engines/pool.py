"""Worker processes, one connection each and no shared lock, so that one that is killed takes nobody along."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import Pipe
from multiprocessing.connection import Connection, wait
from typing import Any

from ..blocks import Block
from ..errors import WorkerDiedError
from . import EngineRun, Results, Task

__all__ = ["block_place", "pool_run"]

# A plain interpreter and not `multiprocessing.Process`: that would run the caller's main module again.
_START = """
import json, sys
sys.path[:] = json.loads(sys.argv[2])
from datasets_io.engines.worker import serve
serve(int(sys.argv[1]))
"""
_TRIES = 2
_SECONDS_TO_LEAVE = 10


def pool_run(workers: int, inherited: tuple[int, ...] = ()) -> EngineRun:
    """An engine of `workers` processes.

    A block whose worker dies is given to a fresh worker once; if that one dies too, `WorkerDiedError`.

    Args:
        workers: at least 1.
        inherited: file descriptors that the processes keep open as long as they live.
    """

    @contextmanager
    def run() -> Generator[Results]:
        pool = _Pool(workers, inherited)
        try:
            yield pool.results
        except BaseException:
            pool.kill()
            raise
        else:
            pool.close()

    return run


class _Worker:
    """One process and the task it is at."""

    def __init__(self, number: int, inherited: tuple[int, ...]) -> None:
        ours, theirs = Pipe()
        self.connection: Connection[Any, Any] = ours
        self.task: Task[Any] | None = None
        arguments = [str(theirs.fileno()), json.dumps(sys.path)]
        self.process = subprocess.Popen(  # noqa: S603 our own code
            [sys.executable, "-c", _START, *arguments],
            pass_fds=(theirs.fileno(), *inherited),
            stdin=subprocess.DEVNULL,  # standard input may be the data
            stdout=subprocess.DEVNULL,
            env=_environment(number),
            process_group=0,  # Ctrl-C is the parent's to handle
        )
        theirs.close()

    def give(self, task: Task[Any]) -> None:
        self.task = task
        with suppress(OSError):  # it died; its connection says so when it is read
            self.connection.send(task)

    def end(self, *, kill: bool) -> None:
        self.connection.close()
        if kill:
            self.process.kill()
        try:
            self.process.wait(_SECONDS_TO_LEAVE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def how_it_died(self) -> str:
        code = self.process.wait()
        if code < 0:
            return f"killed by {signal.Signals(-code).name}"
        return f"exit code {code}"


class _Pool:
    def __init__(self, size: int, inherited: tuple[int, ...]) -> None:
        self._size = size
        self._inherited = inherited
        self._workers: list[_Worker] = []

    def results(self, tasks: Iterator[Task[Any]]) -> Iterator[Any]:
        upcoming = next(tasks, None)
        tries: dict[int, int] = {}
        while True:
            while upcoming is not None and (worker := self._idle()) is not None:
                worker.give(upcoming)
                # Cut while the workers work; one task ahead, so that memory stays flat.
                upcoming = next(tasks, None)
            busy = {worker.connection: worker for worker in self._workers if worker.task is not None}
            if not busy:
                return
            for connection in wait(list(busy)):
                worker = busy[connection]  # type: ignore[index]
                try:
                    answer = worker.connection.recv()
                except (EOFError, OSError):
                    self._replace(worker, tries)
                    continue
                worker.task = None
                if answer.error is not None:
                    raise answer.error
                yield answer.result

    def _idle(self) -> _Worker | None:
        for worker in self._workers:
            if worker.task is None:
                return worker
        if len(self._workers) == self._size:
            return None
        self._workers.append(_Worker(self._size, self._inherited))
        return self._workers[-1]

    def _replace(self, dead: _Worker, tries: dict[int, int]) -> None:
        """Give a dead worker's block to a fresh one."""
        task = dead.task
        assert task is not None
        self._workers.remove(dead)
        how = dead.how_it_died()
        dead.end(kill=True)
        block = task.block
        tries[block.index] = tries.get(block.index, 1) + 1
        if tries[block.index] > _TRIES:
            raise WorkerDiedError(
                f"{block_place(block)}: the worker process died at this block twice ({how}); finished blocks are kept. "
                "If memory ran out, use fewer workers or smaller blocks"
            )
        self._workers.append(_Worker(self._size, self._inherited))
        self._workers[-1].give(task)

    def close(self) -> None:
        for worker in self._workers:
            worker.connection.close()
        for worker in self._workers:
            worker.end(kill=False)

    def kill(self) -> None:
        for worker in self._workers:
            worker.end(kill=True)


def block_place(block: Block) -> str:
    """Where a block is: `train.jsonl:1-4711`."""
    if block.lines is None:
        last = block.first_line + max(block.data.count(b"\n") - block.data.endswith(b"\n"), 0)
    else:
        last = block.lines[-1] if block.lines else block.first_line
    return f"{block.source}:{block.first_line}-{last}"


def _environment(number: int) -> dict[str, str]:
    """The encoders' own threads share the cores with the other workers, unless the user said how many."""
    threads = str(max(1, (os.cpu_count() or 1) // number))
    return {"RAYON_NUM_THREADS": threads, "OMP_NUM_THREADS": threads, **os.environ}

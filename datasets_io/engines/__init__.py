"""Where blocks are worked on: in this process, in worker processes, on a Ray cluster. The results are the same."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Literal, Protocol, TypeVar

from renderers import OptionError

if TYPE_CHECKING:
    from ..blocks import Block

__all__ = ["ENGINES", "Engine", "EngineRun", "Results", "Task", "engine_run"]

T_co = TypeVar("T_co", covariant=True)

Engine = Literal["local", "ray"]
ENGINES: tuple[Engine, ...] = ("local", "ray")


class Task(Protocol[T_co]):
    """Work on one block: picklable, the same result wherever and how often it is called."""

    @property
    def block(self) -> Block: ...

    def __call__(self) -> T_co: ...


Results = Callable[[Iterator[Task[Any]]], Iterator[Any]]
"""Works on tasks, taken as they are needed; gives results in the order they are ready, or raises a task's error."""

EngineRun = Callable[[], AbstractContextManager[Results]]
"""Starts an engine. Leaving the context ends the work: nothing runs or writes afterwards."""


def engine_run(engine: Engine, workers: int, inherited: tuple[int, ...] = ()) -> EngineRun:
    """The engine by name.

    Args:
        engine: `local`, or `ray` (extra `ray`).
        workers: processes; 0 works in this process (`ray`: as many as the cluster has cores).
        inherited: file descriptors that worker processes keep open as long as they live.

    Raises:
        OptionError: an unknown engine or a negative number.
        MissingExtraError: ray is not installed.
    """
    if workers < 0:
        raise OptionError(f"workers: expected 0 or more; got {workers}")
    if engine == "ray":
        from .ray import ray_run

        return ray_run(workers)
    if engine != "local":
        raise OptionError(f"engine: expected one of {', '.join(ENGINES)}; got {engine!r}")
    if not workers:
        from .here import run_here

        return run_here
    from .pool import pool_run

    return pool_run(workers, inherited)

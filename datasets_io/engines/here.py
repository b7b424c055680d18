"""Blocks worked on one after another in this process."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from typing import Any

from . import Results, Task

__all__ = ["run_here"]


@contextmanager
def run_here() -> Generator[Results]:
    """See `EngineRun`."""
    yield _results


def _results(tasks: Iterator[Task[Any]]) -> Iterator[Any]:
    return (task() for task in tasks)

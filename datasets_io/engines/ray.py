"""Blocks worked on as Ray tasks (extra `ray`). The output folder must be one that every node sees."""

from __future__ import annotations

import importlib
import os
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

from renderers import MissingExtraError

from ..errors import WorkerDiedError
from . import EngineRun, Results, Task
from .pool import block_place
from .worker import answer_to

__all__ = ["ray_run"]

_TASKS_PER_WORKER = 2


def ray_run(workers: int) -> EngineRun:
    """An engine on the Ray cluster that is connected, on the one that RAY_ADDRESS names, or on a local one.

    Args:
        workers: how many tasks run at once; 0 for as many as the cluster has cores.

    Raises:
        MissingExtraError: ray is not installed.
    """
    # Ray reports usage over the network unless told not to; the user's own setting stays.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        ray: Any = importlib.import_module("ray")
    except ImportError:
        raise MissingExtraError("ray", "ray") from None

    @contextmanager
    def run() -> Generator[Results]:
        started = not ray.is_initialized()
        if started:
            ray.init(**_local_cluster(workers))
        try:
            cores = int(ray.cluster_resources().get("CPU", 1))
            yield partial(_results, ray, workers or cores)
        finally:
            if started:
                ray.shutdown()

    return run


def _local_cluster(workers: int) -> dict[str, Any]:
    """How to start when nobody has: quietly, and reachable from this machine only."""
    quiet: dict[str, Any] = {"log_to_driver": False, "include_dashboard": False}
    if os.environ.get("RAY_ADDRESS"):
        return {"log_to_driver": False}
    return {**quiet, "num_cpus": workers or None, "_node_ip_address": "127.0.0.1"}


def _results(ray: Any, workers: int, tasks: Iterator[Task[Any]]) -> Iterator[Any]:
    # Ray tries a task once more when its worker process dies; an error of the task is its answer.
    answer = ray.remote(num_cpus=1, max_retries=1)(answer_to)
    running: dict[Any, Task[Any]] = {}
    try:
        while True:
            while len(running) < workers * _TASKS_PER_WORKER and (task := next(tasks, None)) is not None:
                running[answer.remote(task)] = task
            if not running:
                return
            ready, _ = ray.wait(list(running))
            for reference in ready:
                task = running.pop(reference)
                yield _result(ray, reference, task)
    finally:
        for reference in running:
            ray.cancel(reference, force=True)
        if running:
            ray.wait(list(running), num_returns=len(running), timeout=30)


def _result(ray: Any, reference: Any, task: Task[Any]) -> Any:
    try:
        result = ray.get(reference)
    except (ray.exceptions.WorkerCrashedError, ray.exceptions.OutOfMemoryError, ray.exceptions.NodeDiedError) as error:
        raise WorkerDiedError(
            f"{block_place(task.block)}: the Ray worker died at this block twice ({type(error).__name__}); "
            "finished blocks are kept"
        ) from error
    if result.error is not None:
        raise result.error
    return result.result

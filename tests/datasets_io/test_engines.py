"""Engines do every task once, hand back errors, and survive workers that die."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

import pytest

from datasets_io import WorkerDiedError
from datasets_io.engines import engine_run
from datasets_io.engines.pool import block_place
from renderers import InputError, OptionError
from tests.datasets_io.engine_tasks import DieFirst, Fail, Leave, Tell, block_of


def is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_this_process_works_on_tasks_as_they_are_asked_for() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[Tell]:
        for i in range(3):
            taken.append(i)
            yield Tell(block_of(i))

    with engine_run("local", 0)() as results:
        ready = results(tasks())
        assert next(ready) == (0, os.getpid())
        assert taken == [0]
        assert [index for index, _ in ready] == [1, 2]


def test_workers_do_every_task_once_and_are_gone_afterwards() -> None:
    taken: list[int] = []

    def tasks() -> Iterator[Tell]:
        for i in range(40):
            taken.append(i)
            yield Tell(block_of(i))

    with engine_run("local", 2)() as results:
        ready = results(tasks())
        first = next(ready)
        # Bounded: two workers, one task cut ahead, and what came back so far.
        assert len(taken) <= 5
        answers = [first, *ready]
        again = list(results(Tell(block_of(i)) for i in range(2)))
        workers = {pid for _, pid in answers}
        assert {pid for _, pid in again} <= workers
    assert sorted(index for index, _ in answers) == list(range(40))
    assert os.getpid() not in workers
    assert len(workers) <= 2
    assert not any(map(is_alive, workers))


def test_no_worker_starts_without_a_task() -> None:
    with engine_run("local", 2)() as results:
        assert list(results(iter(()))) == []


def test_an_error_of_a_task_arrives_as_it_is() -> None:
    for workers in (0, 1):
        with engine_run("local", workers)() as results, pytest.raises(InputError) as caught:
            list(results(iter([Fail(block_of(3))])))
        assert (caught.value.field, caught.value.reason, caught.value.detail) == (
            "messages[0]",
            "unknown_role",
            "block 3",
        )


def test_a_block_whose_worker_is_killed_is_done_again(tmp_path) -> None:
    tasks = [DieFirst(block_of(i), str(tmp_path), int(i == 1)) for i in range(4)]
    with engine_run("local", 1)() as results:
        answers = list(results(iter(tasks)))
    assert [index for index, _ in answers] == [0, 1, 2, 3]
    assert len({pid for _, pid in answers}) == 2


def test_a_block_that_kills_twice_is_an_error_and_not_a_hang(tmp_path) -> None:
    tasks = [DieFirst(block_of(0), str(tmp_path), 0), DieFirst(block_of(1), str(tmp_path), 2)]
    with engine_run("local", 1)() as results, pytest.raises(WorkerDiedError) as caught:
        list(results(iter(tasks)))
    assert str(caught.value).startswith(
        "rows.jsonl:11-12: the worker process died at this block twice (killed by SIGKILL)"
    )


def test_a_worker_that_exits_is_a_dead_one() -> None:
    with engine_run("local", 1)() as results, pytest.raises(WorkerDiedError, match="exit code 7"):
        list(results(iter([Leave(block_of(0))])))


def test_leaving_early_ends_the_workers() -> None:
    workers = []

    def interrupted() -> None:
        with engine_run("local", 1)() as results:
            workers.append(next(results(Tell(block_of(i)) for i in range(9)))[1])
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    deadline = time.monotonic() + 10
    while is_alive(workers[0]) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not is_alive(workers[0])


def test_bad_engines_are_refused() -> None:
    with pytest.raises(OptionError, match="workers: expected 0 or more; got -1"):
        engine_run("local", -1)
    with pytest.raises(OptionError, match="engine: expected one of local, ray; got 'dask'"):
        engine_run("dask", 0)  # type: ignore[arg-type]


def test_a_block_is_named_by_its_lines() -> None:
    assert block_place(block_of(2)) == "rows.jsonl:21-22"

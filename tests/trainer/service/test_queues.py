from __future__ import annotations

from typing import Any

import pytest

from renderers import Datum, ModelInput
from trainer.protocol import AdamParams
from trainer.service.operations import ForwardBackward, OptimStep, Ticket
from trainer.service.queues import ModelQueue, Queues


def ticket(model: str, seq_id: int, tokens: int = 0, base: str = "b") -> Ticket[Any]:
    datum = Datum(ModelInput.from_ints([1] * tokens), {})
    operation = ForwardBackward([datum], "cross_entropy") if tokens else OptimStep(AdamParams())
    return Ticket(f"{model}-{seq_id}", model, base, operation, seq_id, seq_id)


def drained(queues: Queues, max_tokens: int = 100) -> list[list[str]]:
    """Every batch until nothing is ready."""
    batches: list[list[str]] = []
    while batch := queues.next_batch(max_tokens):
        batches.append([t.request_id for t in batch])
        for done in batch:
            queue = queues.get(done.model_id)
            assert queue is not None
            queue.done()
    return batches


def put(queues: Queues, *tickets: Ticket[Any]) -> None:
    for one in tickets:
        queue = queues.get(one.model_id) or queues.add(one.model_id)
        queue.put(one.seq_id, one)


def test_a_model_runs_in_order_whatever_the_order_of_arrival() -> None:
    queues = Queues()
    put(queues, ticket("a", 3, 5), ticket("a", 2, 5))
    assert drained(queues) == []
    put(queues, ticket("a", 1, 5), ticket("a", 4))
    assert drained(queues) == [["a-1"], ["a-2"], ["a-3"], ["a-4"]]


def test_a_settled_number_is_passed_over_early_or_late() -> None:
    queue = ModelQueue(1)
    queue.settle(2)
    queue.put(3, ticket("a", 3))
    assert queue.head() is None
    queue.settle(1)
    head = queue.head()
    assert head is not None
    assert head.seq_id == 3
    assert queue.is_known(1)
    assert queue.is_known(3)
    assert not queue.is_known(4)


def test_a_reserved_number_holds_up_what_follows() -> None:
    queue = ModelQueue(1)
    first, second = queue.reserve(2)
    later = queue.reserve(1).start
    queue.put(later, ticket("a", later))
    queue.put(first, ticket("a", first))
    queue.start()
    queue.done()
    assert queue.head() is None
    assert not queue.is_empty
    queue.settle(second)
    head = queue.head()
    assert head is not None
    assert head.seq_id == later


def test_passes_of_several_models_join_up_to_the_budget() -> None:
    queues = Queues()
    put(queues, ticket("a", 1, 40), ticket("b", 1, 40), ticket("c", 1, 40), ticket("d", 1, 20))
    assert drained(queues) == [["a-1", "b-1", "d-1"], ["c-1"]]


def test_one_request_larger_than_the_budget_runs_alone() -> None:
    queues = Queues()
    put(queues, ticket("a", 1, 400), ticket("b", 1, 1))
    assert drained(queues) == [["a-1"], ["b-1"]]


def test_one_model_never_has_two_requests_in_a_batch() -> None:
    queues = Queues()
    put(queues, ticket("a", 1, 10), ticket("a", 2, 10), ticket("b", 1, 10))
    assert drained(queues) == [["a-1", "b-1"], ["a-2"]]


def test_other_bases_and_other_operations_do_not_join() -> None:
    queues = Queues()
    put(queues, ticket("a", 1, 10), ticket("b", 1, 10, base="other"), ticket("c", 1))
    assert drained(queues) == [["a-1"], ["b-1"], ["c-1"]]


@pytest.mark.parametrize("busy", [1, 50])
def test_models_take_turns(busy: int) -> None:
    queues = Queues()
    put(queues, *(ticket("a", i) for i in range(1, busy + 1)), ticket("b", 1))
    assert ["b-1"] in drained(queues)[:2]


def test_drain_takes_everything_that_does_not_run() -> None:
    queues = Queues()
    put(queues, ticket("a", 1), ticket("a", 2), ticket("b", 1))
    running = queues.next_batch(100)
    assert [t.request_id for t in running] == ["a-1"]
    assert {t.request_id for t in queues.drain()} == {"a-2", "b-1"}
    queue = queues.get("a")
    assert queue is not None
    queue.done()
    assert queues.is_empty

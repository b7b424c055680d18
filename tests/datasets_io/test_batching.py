from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import BatchPosition, ShardReader, iter_batches, plan_batches
from renderers import OptionError
from tests.datasets_io.shard_samples import rows_of, write_folder

LENGTHS = np.random.default_rng(0).integers(1, 50, 103)

lengths = st.lists(st.integers(0, 20), max_size=40)
limits = st.fixed_dictionaries(
    {}, optional={"batch_size": st.integers(1, 7), "max_tokens": st.integers(20, 60)}
).filter(bool)


def reference_batches(order, sizes, batch_size=None, max_tokens=None):
    """One row at a time: (rows, was it closed)."""
    batches, current = [], []
    for row in order:
        full = batch_size is not None and len(current) == batch_size
        over = max_tokens is not None and sum(sizes[r] for r in current) + sizes[row] > max_tokens
        if current and (full or over):
            batches.append(current)
            current = []
        current.append(row)
    full = batch_size is not None and len(current) == batch_size
    full = full or (max_tokens is not None and sum(sizes[r] for r in current) == max_tokens)
    return [*batches, current] if current else batches, full or not current


@given(lengths, limits, st.booleans(), st.booleans(), st.integers(0, 5))
@settings(derandomize=True, max_examples=300)
def test_batches_are_cut_as_one_would_by_hand(sizes, limits, shuffle, drop_last, epoch):
    plan = plan_batches(sizes, seed=1, epoch=epoch, shuffle=shuffle, drop_last=drop_last, **limits)
    order = plan_batches(sizes, seed=1, epoch=epoch, shuffle=shuffle, batch_size=1).order
    assert sorted(order) == list(range(len(sizes)))
    expected, closed = reference_batches(order.tolist(), sizes, **limits)
    dropped = 0 if closed or not drop_last else len(expected.pop())
    assert [plan[i].tolist() for i in range(len(plan))] == expected
    assert plan.num_dropped == dropped


def rows_seen(**options):
    return [batch.indices.tolist() for batch in iter_batches(LENGTHS, **options)]


@pytest.mark.parametrize("limit", [{"batch_size": 8}, {"max_tokens": 100}, {"batch_size": 3, "max_tokens": 100}])
@pytest.mark.parametrize("world", [2, 3, 8])
def test_ranks_share_every_global_batch_whatever_their_number(limit, world):
    whole = rows_seen(seed=3, epoch=1, **limit)
    shares = [rows_seen(seed=3, epoch=1, rank=rank, world_size=world, **limit) for rank in range(world)]
    assert {len(share) for share in shares} == {len(whole)}
    for number, batch in enumerate(whole):
        assert sorted(row for share in shares for row in share[number]) == sorted(batch)
        assert [
            row for i in range(len(batch)) for row in shares[i % world][number][i // world : i // world + 1]
        ] == batch


def test_the_order_is_a_function_of_seed_and_epoch():
    one = rows_seen(seed=3, epoch=1, batch_size=10)
    assert one == rows_seen(seed=3, epoch=1, batch_size=10)
    assert one != rows_seen(seed=4, epoch=1, batch_size=10)
    assert one != rows_seen(seed=3, epoch=2, batch_size=10)
    assert sorted(row for batch in one for row in batch) == list(range(len(LENGTHS)))
    assert rows_seen(seed=3, epoch=1, batch_size=103, shuffle=False) == [list(range(103))]


def test_the_order_never_changes_between_versions():
    order = plan_batches([1] * 12, seed=7, epoch=2, batch_size=1).order.tolist()
    assert order == sorted(range(12), key=lambda row: mix(mix(mix(7) ^ 2) + row * 0x9E3779B97F4A7C15 & MASK))
    assert order[:6] == [8, 7, 4, 9, 1, 6]
    assert plan_batches([1] * 12, seed=-1, epoch=0, batch_size=1).order.tolist() != order


MASK = 2**64 - 1


def mix(value: int) -> int:
    """splitmix64's finaliser on Python integers."""
    value = (value ^ (value >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    value = (value ^ (value >> 27)) * 0x94D049BB133111EB & MASK
    return value ^ (value >> 31)


def test_orders_look_random():
    orders = np.array([plan_batches([1] * 8, seed=0, epoch=e, batch_size=1).order for e in range(4000)])
    counts = np.array([np.bincount(orders[:, place], minlength=8) for place in range(8)])
    assert np.abs(counts - 500).max() < 6 * np.sqrt(500)


@pytest.mark.parametrize("limit", [{"batch_size": 8}, {"max_tokens": 100}])
@pytest.mark.parametrize("done", [0, 1, 5])
def test_resuming_gives_exactly_the_remaining_batches(limit, done):
    options = {"seed": 3, "epoch": 1, "rank": 1, "world_size": 2, **limit}
    batches = list(iter_batches(LENGTHS, **options))
    for start in (batches[done].next, BatchPosition(epoch=1, batch=done + 1)):
        stored = json.dumps(start.model_dump())
        resumed = list(iter_batches(LENGTHS, **options, start=BatchPosition.model_validate_json(stored)))
        assert [batch.indices.tolist() for batch in resumed] == [
            batch.indices.tolist() for batch in batches[done + 1 :]
        ]
        assert [batch.next for batch in resumed] == [batch.next for batch in batches[done + 1 :]]


def test_a_finished_epoch_resumes_to_nothing():
    *_, last = iter_batches(LENGTHS, seed=0, epoch=0, batch_size=8)
    assert list(iter_batches(LENGTHS, seed=0, epoch=0, batch_size=8, start=last.next)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epoch": 2}, "start.epoch: expected 2; got 1"),
        ({"seed": 4}, "start.plan: expected .* seed, rows, limits"),
        ({"batch_size": 9}, "start.plan: expected"),
        ({"rows": LENGTHS[:-1]}, "start.plan: expected"),
        ({"start": BatchPosition(epoch=1, batch=14)}, "start.batch: expected at most 13; got 14"),
    ],
)
def test_a_resume_point_of_other_batches_is_refused(change, message):
    options = {"rows": LENGTHS, "seed": 3, "epoch": 1, "batch_size": 8}
    start = next(iter_batches(**options)).next
    with pytest.raises(OptionError, match=message):
        iter_batches(**{**options, "start": start, **change})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "batch_size, max_tokens: expected one of them; got neither"),
        ({"batch_size": 0}, "batch_size: expected at least 1; got 0"),
        ({"batch_size": 1, "epoch": -1}, "epoch: expected at least 0; got -1"),
        ({"max_tokens": 40}, f"max_tokens: expected at least 49, the length of row {LENGTHS.argmax()}; got 40"),
        ({"batch_size": 1, "rank": 2, "world_size": 2}, "got rank 2, world_size 2"),
    ],
)
def test_impossible_options_are_refused_at_the_call(options, message):
    with pytest.raises(OptionError, match=message):
        iter_batches(LENGTHS, **{"seed": 0, "epoch": 0, **options})


def test_batches_over_a_reader_give_its_datums(tmp_path):
    write_folder(tmp_path, rows_of([3, 4, 5, 6, 7]))
    reader = ShardReader(tmp_path)
    for batch in iter_batches(reader, seed=0, epoch=0, batch_size=2):
        assert batch.datums() == [reader[i] for i in batch.indices]
        assert batch.num_tokens == sum(datum.model_input.length for datum in batch.datums())
    view = reader.rank_view(1, 2)
    (batch,) = iter_batches(view, seed=0, epoch=0, batch_size=2, shuffle=False)
    assert batch.datums() == [reader[1], reader[3]]


def test_batches_over_lengths_have_no_datums():
    batch = next(iter_batches([1, 2], seed=0, epoch=0, batch_size=2))
    with pytest.raises(OptionError, match="planned from lengths"):
        batch.datums()

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import plan_packing
from renderers import OptionError


def reference_packing(lengths, budget):
    """Best-fit decreasing, looking at every bin for every row."""
    bins, rooms = [], []
    for row in sorted(range(len(lengths)), key=lambda row: (-lengths[row], row)):
        fitting = [(room, number) for number, room in enumerate(rooms) if room >= lengths[row]]
        if fitting:
            number = min(fitting)[1]
        else:
            number = len(bins)
            bins.append([])
            rooms.append(budget)
        bins[number].append(row)
        rooms[number] -= lengths[row]
    return bins


@given(st.data(), st.integers(1, 70))
@settings(derandomize=True, max_examples=300)
def test_it_is_best_fit_decreasing(data, budget):
    lengths = data.draw(st.lists(st.integers(0, budget), max_size=60))
    plan = plan_packing(lengths, budget)
    assert [rows.tolist() for rows in plan.bins] == reference_packing(lengths, budget)


def test_a_large_plan_is_the_reference_too():
    lengths = np.random.default_rng(0).integers(1, 513, 3000)
    plan = plan_packing(lengths, 512)
    assert [rows.tolist() for rows in plan.bins] == reference_packing(lengths.tolist(), 512)
    assert sorted(np.concatenate(plan.bins)) == list(range(3000))
    assert all(lengths[rows].sum() <= 512 for rows in plan.bins)
    assert plan.fill == lengths.sum() / (512 * len(plan))


def test_no_rows_no_bins():
    plan = plan_packing([], 8)
    assert (len(plan), plan.fill) == (0, 1.0)


@pytest.mark.parametrize(
    ("lengths", "budget", "message"),
    [
        ([1], 0, "budget: expected at least 1; got 0"),
        ([3, 9, 8], 8, r"lengths\[1\]: expected 0 to 8, the budget; got 9"),
        ([3, -1], 8, r"lengths\[1\]: expected 0 to 8, the budget; got -1"),
    ],
)
def test_what_cannot_be_packed_is_refused(lengths, budget, message):
    with pytest.raises(OptionError, match=message):
        plan_packing(lengths, budget)

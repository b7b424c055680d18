"""Random kills and random input. `benchmarks/kill_test.py` and `benchmarks/fuzz.py` run the same for longer."""

from __future__ import annotations

import pytest

from benchmarks.fuzz import OPTIONS, check_lines, mutated_rows
from benchmarks.kill_test import run_kill_test


@pytest.mark.slow
def test_kills_at_any_moment_change_no_byte(tmp_path) -> None:
    assert run_kill_test(tmp_path, kills=5, seed=3, rows=200).total() == 5


@pytest.mark.parametrize("number", range(len(OPTIONS)))
def test_every_mutated_row_is_accepted_or_rejected(tmp_path, number) -> None:
    accepted, rejected = check_lines(list(mutated_rows(350, number)), tmp_path, print, **OPTIONS[number])
    assert accepted + rejected > 330
    assert min(accepted, rejected) > 50

"""DPO: the formula, the pairs, and that training does what it is for."""

from __future__ import annotations

import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from datasets_io import ShardReader
from renderers import UserError
from tests.trainer.recipes.run_samples import measured, run, write_shards
from trainer.recipes.preference import dpo_metrics, find_pairs

BETA = 0.2


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "pairs", "preference.jsonl", rows=32)


def plain_dpo(policy: np.ndarray, reference: np.ndarray) -> tuple[float, float]:
    """The formula as it is written, pair by pair."""
    losses, margins = [], []
    for (pc, pr), (rc, rr) in zip(policy.tolist(), reference.tolist(), strict=True):
        margin = BETA * ((pc - rc) - (pr - rr))
        losses.append(-math.log(1 / (1 + math.exp(-margin))))
        margins.append(margin)
    return sum(losses) / len(losses), sum(margins) / len(margins)


def test_the_formula() -> None:
    rng = np.random.default_rng(0)
    policy, reference = rng.normal(size=(7, 2)) * 5, rng.normal(size=(7, 2)) * 5
    metrics = dpo_metrics(policy, reference, BETA)
    loss, margin = plain_dpo(policy, reference)
    assert metrics["dpo_loss"] == pytest.approx(loss)
    assert metrics["margin"] == pytest.approx(margin)
    assert metrics["margin"] == pytest.approx(metrics["chosen_reward"] - metrics["rejected_reward"])
    wins = [p[0] - p[1] > r[0] - r[1] for p, r in zip(policy, reference, strict=True)]
    assert metrics["accuracy"] == pytest.approx(sum(wins) / 7)


def test_the_gradient_is_that_of_the_formula() -> None:
    import torch

    from renderers import to_datum
    from trainer.recipes.preference import Pair, _loss_function, _sums

    rng = np.random.default_rng(1)
    data = [to_datum(rng.integers(0, 50, n), np.arange(n) > 2) for n in (6, 9, 5, 7)]
    pairs = [Pair((0,), (1,)), Pair((2,), (3,))]
    reference = rng.normal(size=4)
    logprobs = [torch.tensor(rng.normal(size=len(d.model_input.to_numpy())), requires_grad=True) for d in data]
    loss, _ = _loss_function(data, pairs, reference, BETA)(data, logprobs)
    loss.backward()

    outputs = [{"logprobs": _Numpy(lp.detach().numpy())} for lp in logprobs]
    sums = _sums(data, SimpleNamespace(loss_fn_outputs=outputs))
    expected, _ = plain_dpo(sums.reshape(2, 2), reference.reshape(2, 2))
    assert float(loss.detach()) == pytest.approx(expected)
    for pair in pairs:
        chosen, rejected = pair.chosen[0], pair.rejected[0]
        margin = BETA * ((sums[chosen] - reference[chosen]) - (sums[rejected] - reference[rejected]))
        slope = -BETA / (1 + math.exp(margin)) / len(pairs)
        for row, sign in ((chosen, 1), (rejected, -1)):
            weights = data[row].loss_fn_inputs["weights"].to_numpy()
            assert logprobs[row].grad.numpy() == pytest.approx(sign * slope * weights)


class _Numpy:
    def __init__(self, array: np.ndarray) -> None:
        self._array = array

    def to_numpy(self) -> np.ndarray:
        return self._array


def test_pairs_are_the_halves_of_one_input_row(pairs: Path) -> None:
    reader = ShardReader(pairs)
    found = find_pairs(reader)
    assert sorted(row for pair in found for row in pair.rows) == list(range(len(reader)))
    for pair in found:
        lines = {reader.row(row).provenance.line for row in pair.rows}
        sides = [reader.row(row).provenance.side for row in pair.rows]
        assert len(lines) == 1
        assert sides == ["chosen", "rejected"]


def test_training_lowers_the_loss_and_raises_the_margin(model: Path, pairs: Path, tmp_path: Path) -> None:
    result = run(
        model, pairs, tmp_path / "run", objective="dpo", batch_size=6, epochs=4, dpo_beta=BETA, learning_rate=1e-2
    )
    steps = [line for line in measured(result.folder) if "dpo_loss" in line]
    # At first the adapter is the base, and the base is the reference.
    assert steps[0]["margin"] == 0
    assert steps[0]["dpo_loss"] == pytest.approx(math.log(2))
    assert steps[-1]["dpo_loss"] < 0.5 * steps[0]["dpo_loss"]
    assert steps[-1]["margin"] > 0.5
    assert steps[-1]["accuracy"] > 0.8
    held_out = [line for line in measured(result.folder) if "test/dpo_loss" in line]
    assert held_out[0]["test/margin"] == pytest.approx(0, abs=1e-5)
    assert held_out[-1]["test/margin"] > 0


def test_rows_that_are_no_pairs_are_refused(model: Path, shards: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"shards.jsonl:1: expected half of a preference pair"):
        run(model, shards, tmp_path / "run", objective="dpo")

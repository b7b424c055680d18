"""Direct preference optimisation (DPO) over pairs of rows that the columns `pair` and `side` link.

With s(y) the weighted sum of the logprobs of y's trained tokens, under the adapter (policy) and the base (reference):

    margin = beta * ((s_policy(chosen) - s_reference(chosen)) - (s_policy(rejected) - s_reference(rejected)))
    loss   = mean over pairs of -log sigmoid(margin)

The reference is a second adapter that is never trained: its B is zero, so it gives the base's own logprobs, by the very
computation that gives the policy's, and the first step's margins are 0.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from datasets_io import ShardReader
from renderers import Datum, UserError

from .objectives import Outcome, eval_batches, windowed
from .scores import trained
from .training_data import TrainingData, name_rows
from .wire import Wire

__all__ = ["Pair", "PreferenceObjective", "dpo_metrics", "find_pairs"]

CHOSEN, REJECTED = "chosen", "rejected"
Sums = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Pair:
    """Rows of both halves; several where a conversation became several examples."""

    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def rows(self) -> tuple[int, ...]:
        return self.chosen + self.rejected


def find_pairs(reader: ShardReader) -> list[Pair]:
    """The pairs of a reader, in order of their first rows.

    Raises:
        UserError: a row belongs to no pair, or a pair lacks one half; the row is named.
    """
    halves: dict[tuple[str, str], dict[str, list[int]]] = {}
    row = 0
    for view in reader.batches():
        columns = [view.batch.column(name).to_pylist() for name in ("source", "pair", "side")]
        for source, pair, side in zip(*columns, strict=True):
            if pair is None or side not in (CHOSEN, REJECTED):
                raise UserError(
                    f"{name_rows(reader, [row])}: expected half of a preference pair (columns pair and side), as "
                    "objective=dpo compares pairs; got a row of its own"
                )
            halves.setdefault((source, pair), {CHOSEN: [], REJECTED: []})[side].append(row)
            row += 1
    for sides in halves.values():
        for side, other in ((CHOSEN, REJECTED), (REJECTED, CHOSEN)):
            if not sides[side]:
                raise UserError(
                    f"{name_rows(reader, sides[other][:1])}: expected both halves of its pair; there is no {side} one"
                )
    return [Pair(tuple(sides[CHOSEN]), tuple(sides[REJECTED])) for sides in halves.values()]


def dpo_metrics(policy: Sums, reference: Sums, beta: float) -> dict[str, float]:
    """The loss and what is usually watched beside it.

    Args:
        policy, reference: float64 (num_pairs, 2), sums of chosen and rejected.
    """
    rewards = beta * (policy - reference)
    margins = rewards[:, 0] - rewards[:, 1]
    return {
        "dpo_loss": float(np.logaddexp(0.0, -margins).mean()),
        "accuracy": float((margins > 0).mean()),
        "margin": float(margins.mean()),
        "chosen_reward": float(rewards[:, 0].mean()),
        "rejected_reward": float(rewards[:, 1].mean()),
    }


class PreferenceObjective:
    """DPO through `forward_backward_custom`.

    Args:
        wire: values for the client.
        reference: an untrained adapter's client.
        pairs: of the training rows, as `TrainingData`'s units are numbered.
        held_out: of the held-out rows.
        beta: how strongly the policy is held to the reference.
    """

    def __init__(
        self, wire: Wire, reference: Any, pairs: Sequence[Pair], held_out: Sequence[Pair], beta: float
    ) -> None:
        self._wire = wire
        self._reference = reference
        self._pairs = pairs
        self._held_out = held_out
        self._beta = beta

    def submit(self, client: Any, data: TrainingData, units: Sequence[int]) -> Callable[[], Outcome]:
        pairs = [self._pairs[unit] for unit in units]
        rows = [row for pair in pairs for row in pair.rows]
        datums = data.datums(rows)
        sent = self._wire.data(datums)
        # Waited for before the policy's own pass: alone in its pass, it is the same whenever it is computed.
        reference = _sums(datums, self._reference.forward(sent, "cross_entropy").result())
        future = client.forward_backward_custom(sent, _loss_function(datums, pairs, reference, self._beta))

        def collect() -> Outcome:
            output = future.result()
            policy = _sums(datums, output)
            metrics = dpo_metrics(_by_side(pairs, policy), _by_side(pairs, reference), self._beta)
            metrics["num_sequences"] = float(len(rows))
            metrics["num_loss_tokens"] = float(sum(int(trained(datum)[0].sum()) for datum in datums))
            bad = ~(np.isfinite(policy) & np.isfinite(reference))
            return Outcome(metrics, [row for row, is_bad in zip(rows, bad, strict=True) if is_bad])

        return collect

    def evaluate(self, client: Any, data: TrainingData, units: Sequence[int]) -> dict[str, float]:
        def ask(batch: list[int]) -> Callable[[], tuple[Sums, Sums]]:
            pairs = [self._held_out[unit] for unit in batch]
            datums = data.datums([row for pair in pairs for row in pair.rows])
            sent = self._wire.data(datums)
            futures = [asked.forward(sent, "cross_entropy") for asked in (client, self._reference)]

            def collect() -> tuple[Sums, Sums]:
                policy, reference = (_by_side(pairs, _sums(datums, future.result())) for future in futures)
                return policy, reference

            return collect

        parts = list(windowed(eval_batches(data, units), ask))
        policy, reference = (np.concatenate([part[i] for part in parts]) for i in range(2))
        return {f"test/{name}": value for name, value in dpo_metrics(policy, reference, self._beta).items()}


def _sums(data: Sequence[Datum], output: Any) -> Sums:
    """float64 (num_rows,): the weighted logprob sum of each row's trained tokens."""
    values: list[float] = []
    for datum, out in zip(data, output.loss_fn_outputs, strict=True):
        used, weights = trained(datum)
        values.append(float(weights @ np.asarray(out["logprobs"].to_numpy(), np.float64).ravel()[used]))
    return np.array(values)


def _by_side(pairs: Sequence[Pair], sums: Sums) -> Sums:
    """Sums of rows in the pairs' order as (num_pairs, 2)."""
    table, start = np.zeros((len(pairs), 2)), 0
    for i, pair in enumerate(pairs):
        middle, end = start + len(pair.chosen), start + len(pair.rows)
        table[i] = sums[start:middle].sum(), sums[middle:end].sum()
        start = end
    return table


def _loss_function(
    data: Sequence[Datum], pairs: Sequence[Pair], reference: Sums, beta: float
) -> Callable[[list[Any], list[Any]], tuple[Any, dict[str, float]]]:
    """What the client differentiates, with torch: see the formula above."""
    signs = np.concatenate([np.r_[np.ones(len(pair.chosen)), -np.ones(len(pair.rejected))] for pair in pairs])
    which = np.repeat(np.arange(len(pairs)), [len(pair.rows) for pair in pairs])
    held = [trained(datum) for datum in data]

    def loss(_data: list[Any], logprobs: list[Any]) -> tuple[Any, dict[str, float]]:
        import torch

        rewards = [
            sign * beta * ((lp.flatten().double()[torch.from_numpy(used)] * torch.from_numpy(weights)).sum() - ref)
            for lp, (used, weights), sign, ref in zip(logprobs, held, signs.tolist(), reference.tolist(), strict=True)
        ]
        margins = torch.zeros(len(pairs), dtype=torch.float64).index_add(
            0, torch.from_numpy(which), torch.stack(rewards)
        )
        mean = -torch.nn.functional.logsigmoid(margins).mean()
        return mean, {"dpo_loss": float(mean.detach())}

    return loss

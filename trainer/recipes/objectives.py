"""What a step asks of the model. `SupervisedObjective` is cross-entropy over the shards' own weights."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, TypeVar

import numpy as np

from datasets_io import plan_batches

from .scores import ByteCounts, mean_nll, rows_not_finite, score_rows
from .training_data import TrainingData
from .wire import Wire

__all__ = ["Objective", "Outcome", "SupervisedObjective", "eval_batches", "windowed"]

T = TypeVar("T")
_EVAL_TOKENS = 16_384
_EVAL_AHEAD = 4


@dataclass(frozen=True)
class Outcome:
    """What a step gave.

    Attributes:
        metrics: by the names of `metrics.jsonl`.
        bad_rows: rows whose loss is NaN or infinite.
    """

    metrics: dict[str, float]
    bad_rows: list[int] = field(default_factory=list[int])


class Objective(Protocol):
    """How rows become a loss."""

    def submit(self, client: Any, data: TrainingData, units: Sequence[int]) -> Callable[[], Outcome]:
        """Ask for the gradients of these units; the function that comes back waits for the outcome."""
        ...

    def evaluate(self, client: Any, data: TrainingData, units: Sequence[int]) -> dict[str, float]:
        """Measure on held-out units, without gradients."""
        ...


class SupervisedObjective:
    """Cross-entropy, a weighted sum as the protocol has it."""

    def __init__(self, wire: Wire, byte_counts: ByteCounts | None) -> None:
        self._wire = wire
        self._byte_counts = byte_counts

    def submit(self, client: Any, data: TrainingData, units: Sequence[int]) -> Callable[[], Outcome]:
        rows = [row for unit in units for row in data.rows(unit)]
        datums = data.datums(rows)
        future = client.forward_backward(self._wire.data(datums), "cross_entropy")

        def collect() -> Outcome:
            scores = score_rows(datums, future.result().loss_fn_outputs)
            metrics = {
                "train_mean_nll": mean_nll(scores),
                "num_sequences": float(len(rows)),
                "num_loss_tokens": float(sum(score.count for score in scores)),
            }
            return Outcome(metrics, rows_not_finite(rows, scores))

        return collect

    def evaluate(self, client: Any, data: TrainingData, units: Sequence[int]) -> dict[str, float]:
        def ask(batch: list[int]) -> Callable[[], list[Any]]:
            datums = data.datums([row for unit in batch for row in data.rows(unit)])
            future = client.forward(self._wire.data(datums), "cross_entropy")
            return lambda: list(score_rows(datums, future.result().loss_fn_outputs, self._byte_counts))

        scores = [score for part in windowed(eval_batches(data, units), ask) for score in part]
        metrics = {"test/nll": mean_nll(scores), "test/num_loss_tokens": float(sum(s.count for s in scores))}
        num_bytes = sum(score.bytes for score in scores)
        if self._byte_counts is not None and num_bytes > 0:
            metrics["test/bits_per_byte"] = sum(score.bits for score in scores) / num_bytes
        return metrics


def eval_batches(data: TrainingData, units: Sequence[int]) -> Iterator[list[int]]:
    """Units in their own order, cut into requests of about `_EVAL_TOKENS`."""
    chosen = list(units)
    lengths = data.lengths[chosen]
    limit = max(_EVAL_TOKENS, int(lengths.max(initial=0)))
    plan = plan_batches(lengths, seed=0, epoch=0, max_tokens=limit, shuffle=False)
    for i in range(len(plan)):
        yield [chosen[j] for j in np.asarray(plan[i]).tolist()]


def windowed(batches: Iterator[list[int]], ask: Callable[[list[int]], Callable[[], T]]) -> Iterator[T]:
    """Every batch's answer in order, a few asked ahead so that a server is never idle."""
    pending: deque[Callable[[], T]] = deque()
    for batch in batches:
        pending.append(ask(batch))
        if len(pending) > _EVAL_AHEAD:
            yield pending.popleft()()
    while pending:
        yield pending.popleft()()

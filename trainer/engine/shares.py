"""Whose rows are whose in a group, and everyone's results put together again."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from trainer.protocol import ForwardBackwardOutput, LossFnOutput

from .requests import CheckedRequest

__all__ = ["merge", "share_of"]


def share_of(checked: Sequence[CheckedRequest], rank: int, size: int) -> list[CheckedRequest]:
    """A rank's rows of every request: row k of the whole call belongs to rank k modulo size."""
    shares: list[CheckedRequest] = []
    start = 0
    for request in checked:
        shares.append(replace(request, data=request.data[(rank - start) % size :: size]))
        start += len(request.data)
    return shares


def merge(
    checked: Sequence[CheckedRequest], by_rank: Sequence[Sequence[ForwardBackwardOutput]]
) -> list[ForwardBackwardOutput]:
    """Every rank's outputs as if one process had run all rows; sums are added in the order of ranks."""
    size = len(by_rank)
    merged: list[ForwardBackwardOutput] = []
    start = 0
    for index, request in enumerate(checked):
        outputs = [found[index] for found in by_rank]
        rows = [iter(output.loss_fn_outputs) for output in outputs]
        records: list[LossFnOutput] = [next(rows[(start + k) % size]) for k in range(len(request.data))]
        names = outputs[0].metrics
        metrics = {name: sum(output.metrics[name] for output in outputs) for name in names}
        merged.append(ForwardBackwardOutput(outputs[0].loss_fn_output_type, records, metrics))
        start += len(request.data)
    return merged

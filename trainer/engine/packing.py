"""Datums become packed batches: no padding between sequences, adapters side by side, microbatches by token budget.

Legend: T tokens of one packed batch, K targets per position.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .attention import SequenceBounds
from .losses import LossInputs
from .requests import CheckedRequest

__all__ = ["PackedBatch", "RequestRows", "by_adapter", "pack", "plan_passes"]


@dataclass(frozen=True)
class _Item:
    """One datum of one request."""

    request: int
    datum: int
    length: int


@dataclass(frozen=True)
class RequestRows:
    """The scored rows start..stop that belong to one request, and what its loss reads for them.

    Attributes:
        request: which request of the call.
        width: most targets per position among its datums here; `inputs` are this wide, flat where it is 1.
        datums: (datum index, first scored row, one past) inside the scored rows, in packed order.
    """

    request: int
    start: int
    stop: int
    inputs: LossInputs
    width: int
    datums: tuple[tuple[int, int, int], ...]


@dataclass(frozen=True)
class PackedBatch:
    """One pass through the model.

    Attributes:
        tokens, positions: int64 (T,) on the device.
        bounds: the sequences.
        spans: (request, first row, one past): consecutive, one per request in this pass.
        scored: host int64, the rows that the head scores, ascending; None means all.
        targets: int64 (scored rows, K); columns beyond a datum's own K hold token 0 and zero inputs.
        rows: per request, its scored rows.
    """

    tokens: Tensor
    positions: Tensor
    bounds: SequenceBounds
    spans: tuple[tuple[int, int, int], ...]
    scored: npt.NDArray[np.int64] | None
    targets: Tensor
    rows: tuple[RequestRows, ...]


def by_adapter(requests: Sequence[CheckedRequest]) -> list[int]:
    """The order that lays one adapter's requests beside each other."""
    return sorted(range(len(requests)), key=lambda r: (requests[r].request.adapter_id, r))


def plan_passes(requests: Sequence[CheckedRequest], order: Sequence[int], budget: int) -> list[list[_Item]]:
    """Cuts the requests' datums into passes of at most `budget` tokens each.

    A single longer datum gets a pass of its own. Passes are about equally full, so that none is a small remainder.

    Args:
        requests: checked.
        order: in which order requests are laid out (one adapter's requests beside each other).
        budget: tokens per pass.
    """
    items = [_Item(r, d, len(x.tokens)) for r in order for d, x in enumerate(requests[r].data)]
    total = sum(item.length for item in items)
    target = math.ceil(total / max(1, math.ceil(total / budget)))
    passes: list[list[_Item]] = []
    filled = 0
    for item in items:
        crosses = filled + item.length > budget or filled >= target
        if not passes or crosses:
            passes.append([])
            filled = 0
        passes[-1].append(item)
        filled += item.length
    return passes


def pack(requests: Sequence[CheckedRequest], items: Sequence[_Item], device: torch.device) -> PackedBatch:
    """One pass's items as tensors."""
    data = [requests[item.request].data[item.datum] for item in items]
    lengths = [item.length for item in items]
    starts = np.cumsum([0, *lengths])
    keep = [_scored(requests[item.request], item.datum) for item in items]
    scored = None if all(k.all() for k in keep) else np.flatnonzero(np.concatenate(keep)).astype(np.int64)
    width = max(d.targets.shape[1] for d in data)
    targets = np.concatenate([_widen(d.targets[k], width) for d, k in zip(data, keep, strict=True)])
    spans = tuple(
        (request, int(starts[first]), int(starts[last + 1]))
        for request, first, last in _runs([i.request for i in items])
    )
    return PackedBatch(
        tokens=_send(np.concatenate([d.tokens for d in data]), device),
        positions=_send(np.concatenate([np.arange(n, dtype=np.int64) for n in lengths]), device),
        bounds=SequenceBounds.of(lengths, device),
        spans=spans,
        scored=scored,
        targets=_send(targets, device),
        rows=tuple(_request_rows(requests, items, keep, device)),
    )


def _send(array: npt.NDArray[np.generic], device: torch.device) -> Tensor:
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)


def _widen(array: npt.NDArray[np.generic], width: int) -> npt.NDArray[np.generic]:
    return np.pad(array, ((0, 0), (0, width - array.shape[1]))) if array.shape[1] < width else array


def _scored(request: CheckedRequest, datum: int) -> npt.NDArray[np.bool_]:
    """bool (N,): the positions that the head must score."""
    checked = request.data[datum]
    silent = request.loss.silent_at_zero
    if request.request.all_logprobs or silent is None:
        return np.ones(len(checked.tokens), dtype=np.bool_)
    return (checked.inputs[silent] != 0).any(axis=1)


def _runs(values: Sequence[int]) -> Iterator[tuple[int, int, int]]:
    """(value, first index, last index) of each run of equal values."""
    first = 0
    for index in range(1, len(values) + 1):
        if index == len(values) or values[index] != values[first]:
            yield values[first], first, index - 1
            first = index


def _request_rows(
    requests: Sequence[CheckedRequest],
    items: Sequence[_Item],
    keep: Sequence[npt.NDArray[np.bool_]],
    device: torch.device,
) -> Iterator[RequestRows]:
    edges = np.cumsum([0, *(int(k.sum()) for k in keep)])
    for request, first, last in _runs([item.request for item in items]):
        mine = range(first, last + 1)
        data = [requests[request].data[items[i].datum] for i in mine]
        width = max(d.targets.shape[1] for d in data)
        # The door saw to it that every datum of a request brings the same inputs.
        tensors = {
            name: _send(
                np.concatenate([_widen(d.inputs[name][keep[i]], width) for d, i in zip(data, mine, strict=True)]),
                device,
            )
            for name in data[0].inputs
        }
        counts = [int(edges[i + 1] - edges[i]) for i in mine]
        sequence = _send(np.repeat(np.arange(len(mine), dtype=np.int64), counts), device)
        if width == 1:
            tensors = {name: value.squeeze(-1) for name, value in tensors.items()}
        yield RequestRows(
            request,
            int(edges[first]),
            int(edges[last + 1]),
            LossInputs(tensors, sequence, len(mine)),
            width,
            tuple((items[i].datum, int(edges[i]), int(edges[i + 1])) for i in mine),
        )

"""Decode over tensors whose shapes and addresses do not change, so that a CUDA graph can hold the whole step.

Legend: b rows of a bucket, c tokens of a context bucket, Hk key/value heads, d head dimension.

A step of a small model is hundreds of tiny kernels, whose launches take longer than they do. Rows are padded to a
bucket (1, 2, 4, 8, ...) and contexts to another; each row's past is a line of pool rows, gathered inside the step. One
graph per pair of buckets and adapter layout is captured at its first use; the adapter's numbers are copied into the
graph's own tensors when another snapshot comes. A batch of several adapters, experts, and rotary tables that depend on
the length run the same step without a graph.

The same code runs on a CPU without graphs, which is how its results are tested.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional

from trainer.engine import AdapterWeights, AttentionSpec, Decoder, DenseMlp, Head, Segment

from .kv_pool import SLACK_ROWS, Context, KvPool

__all__ = ["StaticDecode"]

logger = logging.getLogger(__name__)

_LEAST_CONTEXT = 256


class _Row(Protocol):
    @property
    def context(self) -> Context: ...
    @property
    def token(self) -> int: ...
    @property
    def weights(self) -> AdapterWeights | None: ...


def _bucket(size: int, least: int = 1) -> int:
    return max(least, 1 << (size - 1).bit_length())


@dataclass(frozen=True)
class _Inputs:
    """What a step reads.

    Attributes:
        tokens, positions, slots: int64 (b,); `slots` is the pool row that the token's keys and values go to.
        table: int64 (b, c), the pool rows of each row's past, the token itself included.
    """

    tokens: Tensor
    positions: Tensor
    slots: Tensor
    table: Tensor

    @classmethod
    def empty(cls, rows: int, context: int, device: torch.device) -> _Inputs:
        one = [torch.zeros(rows, dtype=torch.int64, device=device) for _ in range(3)]
        return cls(*one, table=torch.zeros(rows, context, dtype=torch.int64, device=device))

    def load(self, arrays: Sequence[npt.NDArray[np.int64]]) -> None:
        for tensor, array in zip((self.tokens, self.positions, self.slots, self.table), arrays, strict=True):
            tensor.copy_(torch.from_numpy(array), non_blocking=True)


@dataclass(frozen=True)
class _Captured:
    inputs: _Inputs
    weights: AdapterWeights | None
    logits: Tensor
    replay: Callable[[], None]


class StaticDecode:
    """See the module's docstring.

    Args:
        decoder, head: plain weights.
        pool: where keys and values live.
        graphs: None captures where that is possible.
    """

    def __init__(self, decoder: Decoder, head: Head, pool: KvPool, graphs: bool | None = None) -> None:
        self.decoder, self.head, self.pool = decoder, head, pool
        self.device = head.projection.weight.device
        dense = all(isinstance(layer.mlp, DenseMlp) for layer in decoder.layers)
        self.graphs = self.device.type == "cuda" and dense if graphs is None else graphs
        self._captured: dict[tuple[Any, ...], _Captured] = {}
        self._loaded: dict[tuple[Any, ...], AdapterWeights | None] = {}
        self._memory: Any = None

    @torch.no_grad()
    def __call__(self, batch: Sequence[_Row], segments: Sequence[Segment]) -> Tensor:
        """Logits after each row's token, float32 (len(batch), V)."""
        longest = max(row.context.length for row in batch) + 1
        rows, context = _bucket(len(batch)), _bucket(longest, _LEAST_CONTEXT)
        arrays = self._arrays(batch, rows, context)
        if self.graphs and len({id(row.weights) for row in batch}) == 1:
            captured = self._graph(rows, context, batch[0].weights)
            if captured is not None:
                captured.inputs.load(arrays)
                captured.replay()
                return captured.logits[: len(batch)].clone()
        inputs = _Inputs.empty(rows, context, self.device)
        inputs.load(arrays)
        return self.step(inputs, segments)[: len(batch)]

    def step(self, inputs: _Inputs, segments: Sequence[Segment]) -> Tensor:
        """The whole step: no host value is read, nothing depends on the rows' number or lengths."""
        index = torch.arange(inputs.table.shape[1], device=self.device)
        behind = inputs.positions.unsqueeze(-1) - index

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            spec = self.decoder.attention[layer]
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            keys.index_copy_(0, inputs.slots, k)
            values.index_copy_(0, inputs.slots, v)
            seen = behind >= 0 if spec.window is None else (behind >= 0) & (behind < spec.window)
            return _attention(q, keys[inputs.table], values[inputs.table], seen, spec)

        hidden = self.decoder(inputs.tokens, inputs.positions, attend, segments=segments)
        return self.head.logits(hidden, segments)

    def _arrays(self, batch: Sequence[_Row], rows: int, context: int) -> list[npt.NDArray[np.int64]]:
        """Host values; padding rows write to the rows behind the last extent, and read one token there."""
        tokens, positions = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        slots = self.pool.capacity + np.arange(rows, dtype=np.int64) % SLACK_ROWS
        table = np.repeat(slots[:, None], context, axis=1)
        for i, row in enumerate(batch):
            tokens[i], positions[i], slots[i] = row.token, row.context.length, row.context.next_row()
            filled = 0
            for start, length in row.context.pieces(extra=1):
                table[i, filled : filled + length] = np.arange(start, start + length)
                filled += length
        return [tokens, positions, slots, table]

    # ---- graphs

    def _graph(self, rows: int, context: int, weights: AdapterWeights | None) -> _Captured | None:
        """The captured step with this adapter's numbers in it; None, for good, when capturing fails."""
        key = (rows, context, _layout(weights))
        if key not in self._captured:
            try:
                self._captured[key] = self._capture(rows, context, weights)
            except RuntimeError as error:
                logger.warning("decode runs without CUDA graphs: %s", error)
                self.graphs = False
                return None
            self._loaded[key] = weights
        captured = self._captured[key]
        if weights is not None and captured.weights is not None and self._loaded[key] is not weights:
            _copy(captured.weights, weights)
            self._loaded[key] = weights
        return captured

    def _capture(self, rows: int, context: int, weights: AdapterWeights | None) -> _Captured:
        inputs = _Inputs.empty(rows, context, self.device)
        slots = self.pool.capacity + torch.arange(rows, device=self.device) % SLACK_ROWS
        inputs.slots.copy_(slots)
        inputs.table.copy_(slots.unsqueeze(-1).expand_as(inputs.table))
        own = None if weights is None else _clone(weights)
        segments = [] if own is None else [Segment(own, 0, rows)]
        stream = torch.cuda.Stream(self.device)
        stream.wait_stream(torch.cuda.current_stream(self.device))
        with torch.cuda.stream(stream):  # libraries allocate their work space before the capture
            for _ in range(2):
                self.step(inputs, segments)
        torch.cuda.current_stream(self.device).wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._memory):
            logits = self.step(inputs, segments)
        self._memory = self._memory or graph.pool()
        return _Captured(inputs, own, logits, graph.replay)


def _attention(q: Tensor, k: Tensor, v: Tensor, seen: Tensor, spec: AttentionSpec) -> Tensor:
    """One query per row: q (b, Hq, d), k and v (b, c, Hk, d), seen bool (b, c); gives (b, Hq, d)."""
    query = q.unflatten(1, (k.shape[2], -1))  # (b, Hk, G, d): the query heads of a key head as its queries
    key, value, mask = k.transpose(1, 2), v.transpose(1, 2), seen[:, None, None]
    if spec.softcap is None:
        out = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=spec.scale)
        return out.flatten(1, 2)
    scores = torch.tanh((query * spec.scale) @ key.transpose(-1, -2) / spec.softcap) * spec.softcap
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return (weights @ value).flatten(1, 2)


def _layout(weights: AdapterWeights | None) -> tuple[Any, ...]:
    """What two snapshots must share to run in one graph."""
    if weights is None:
        return ()
    return tuple((key, tuple(part.a.shape), part.rank, part.scale) for key, part in weights.parts.items())


def _clone(weights: AdapterWeights) -> AdapterWeights:
    parts = {
        key: replace(part, a=part.a.clone(), bs=tuple(b.clone() for b in part.bs))
        for key, part in weights.parts.items()
    }
    return AdapterWeights(parts, weights.version)


def _copy(target: AdapterWeights, source: AdapterWeights) -> None:
    for key, part in target.parts.items():
        part.a.copy_(source.parts[key].a)
        for own, other in zip(part.bs, source.parts[key].bs, strict=True):
            own.copy_(other)

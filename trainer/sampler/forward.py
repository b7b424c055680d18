"""The model's two passes over the pool: a packed prefill, and one token for each running row.

Both are the trainer's own decoder; only what happens to keys and values differs: they are written to the pool first,
then each token attends over what the pool holds of its sequence.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from renderers import InternalError
from trainer.engine import AdapterWeights, BaseModel, Segment, SequenceBounds, packed_attention

from .attention import DecodePlan, chunk_attention
from .kv_pool import Context, KvPool
from .packed_weights import pack_for_decode
from .static_decode import StaticDecode

__all__ = ["Chunk", "DecodeRow", "Forward", "segments_of"]


@dataclass(frozen=True)
class Chunk:
    """Tokens that go to the end of one sequence's context, which has room for them.

    Attributes:
        tokens: int32 (n,).
        total: the sequence's whole length, for rotary tables that depend on it.
    """

    context: Context
    tokens: npt.NDArray[np.int32]
    total: int
    weights: AdapterWeights | None


@dataclass(frozen=True)
class DecodeRow:
    """A sequence's last token, whose keys and values are not in its context yet; there is room for them."""

    context: Context
    token: int
    weights: AdapterWeights | None


def segments_of(runs: Sequence[tuple[AdapterWeights | None, int]]) -> list[Segment]:
    """(adapter, rows) pairs in batch order, neighbours of one adapter made one segment; base rows need none."""
    segments: list[Segment] = []
    start = 0
    for weights, rows in runs:
        last = segments[-1] if segments else None
        if last is not None and last.weights is weights and last.stop == start:
            segments[-1] = Segment(weights, last.start, start + rows)
        elif weights is not None:
            segments.append(Segment(weights, start, start + rows))
        start += rows
    return segments


class Forward:
    """Prefill and decode on one base and pool.

    Args:
        base: a base with a decoder.
        pool: where keys and values live.
        prepack: see `pack_for_decode`.
    """

    def __init__(self, base: BaseModel, pool: KvPool, prepack: bool | None = None) -> None:
        if base.decoder is None:
            raise InternalError(f"forward: expected a base with a decoder; {base.name} runs as {base.path}")
        self.base, self.pool = base, pool
        self.decoder, self.head = pack_for_decode(base, prepack)
        self._static = StaticDecode(base.decoder, base.head, pool) if base.device.type == "cuda" else None
        self._windows = {spec.window for spec in self.decoder.attention}

    @torch.no_grad()
    def prefill(self, chunks: Sequence[Chunk]) -> Tensor:
        """Hidden states of all chunks' tokens, (T, D), chunk after chunk; the contexts' lengths are the caller's."""
        device = self.base.device
        lengths = [len(chunk.tokens) for chunk in chunks]
        starts = [chunk.context.length for chunk in chunks]
        first = [chunk.context.next_row() for chunk in chunks]
        rows = torch.from_numpy(np.concatenate([np.arange(f, f + n) for f, n in zip(first, lengths, strict=True)]))
        rows = rows.to(device)
        tokens = np.concatenate([chunk.tokens for chunk in chunks]).astype(np.int64)
        positions = np.concatenate([np.arange(s, s + n) for s, n in zip(starts, lengths, strict=True)])
        totals = np.repeat([chunk.total for chunk in chunks], lengths)
        bounds = SequenceBounds.of(lengths, device)
        varlen = device.type == "cuda" and not any(starts)  # one kernel for all; a CPU goes sequence by sequence anyway

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            q, k, v = q[: len(rows)], k[: len(rows)], v[: len(rows)]
            keys.index_copy_(0, rows, k)
            values.index_copy_(0, rows, v)
            spec = self.decoder.attention[layer]
            if varlen:
                return _padded(packed_attention(q, k, v, bounds, spec), padding)
            new = zip(chunks, q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
            pieces = [
                chunk_attention(qs, ks, vs, spec)
                if chunk.context.length == 0
                else chunk_attention(qs, _past(keys, chunk, qs), _past(values, chunk, qs), spec)
                for chunk, qs, ks, vs in new
            ]
            return _padded(torch.cat(pieces), padding)

        (tokens_t, positions_t, totals_t), padding = _two_rows(tokens, positions, totals)
        hidden = self.decoder(
            tokens_t.to(device),
            positions_t.to(device),
            attend,
            segments=segments_of([(c.weights, n) for c, n in zip(chunks, lengths, strict=True)]),
            lengths=totals_t.to(device),
        )
        return hidden[: len(rows)]

    @torch.no_grad()
    def decode(self, batch: Sequence[DecodeRow]) -> Tensor:
        """Logits after each row's token, float32 (B, V); the contexts' lengths are the caller's."""
        segments = segments_of([(row.weights, 1) for row in batch])
        if self._static is not None:
            return self._static(batch, segments)
        device = self.base.device
        tokens = np.array([row.token for row in batch], dtype=np.int64)
        positions = np.array([row.context.length for row in batch], dtype=np.int64)
        rows = torch.tensor([row.context.next_row() for row in batch], device=device)
        pieces = [row.context.pieces(extra=1) for row in batch]
        plans = {window: DecodePlan(pieces, window, self.pool.dtype, device) for window in self._windows}

        def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            keys, values = self.pool.keys[layer], self.pool.values[layer]
            keys.index_copy_(0, rows, k[: len(rows)])
            values.index_copy_(0, rows, v[: len(rows)])
            spec = self.decoder.attention[layer]
            return plans[spec.window].attend(q, keys, values, spec)

        (tokens_t, positions_t), _ = _two_rows(tokens, positions)
        hidden = self.decoder(tokens_t.to(device), positions_t.to(device), attend, segments=segments)
        return self.head.logits(hidden, segments)[: len(batch)]

    @torch.no_grad()
    def logits(self, hidden: Tensor, weights: Sequence[AdapterWeights | None]) -> Tensor:
        """Float32 (n, V) of some prefilled rows."""
        (padded,), _ = _two_rows(hidden)
        return self.head.logits(padded, segments_of([(w, 1) for w in weights]))[: len(hidden)]


def _two_rows(*arrays: npt.NDArray[np.int64] | Tensor) -> tuple[list[Tensor], int]:
    """A single row twice: one-row products take another kernel, whose last bits differ from those of a larger batch."""
    tensors = [x if isinstance(x, Tensor) else torch.from_numpy(x) for x in arrays]
    if len(tensors[0]) != 1:
        return tensors, 0
    return [torch.cat([x, x]) for x in tensors], 1


def _padded(x: Tensor, padding: int) -> Tensor:
    return torch.cat([x, x[:1]]) if padding else x


def _past(pool: Tensor, chunk: Chunk, queries: Tensor) -> Tensor:
    """Everything of the chunk's sequence up to its own last token, (L, Hk, d)."""
    pieces = [pool[start : start + tokens] for start, tokens in chunk.context.pieces(extra=len(queries))]
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

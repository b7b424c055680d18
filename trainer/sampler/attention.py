"""Attention over the pool: a prefill chunk against its own past, and one query per row against each row's past.

Legend: B rows, Hq query heads, Hk key/value heads, G = Hq / Hk, d head dimension, n rows of one call.

A row's past lies in one or more pieces. Each piece gives a partial result and its log-sum-exp, and partial results are
merged; rows that share a piece (samples of one prompt, prompts with one beginning) read it together, in one product.

Pieces that one row alone reads are batched where they lie at equal distances in the pool, which one strided view
covers. Each is read up to the next multiple of `_GRID` with the rest masked, so that a row's result depends on its own
length alone and never, not in the last bit, on the rows that it happens to be batched with.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from trainer.engine import AttentionSpec

from .kv_pool import SLACK_ROWS

__all__ = ["DecodePlan", "chunk_attention"]

Piece = tuple[int, int]  # first pool row, tokens
_GRID = SLACK_ROWS


@functools.cache
def _flash() -> Any | None:
    """torch's CPU kernel that also gives the log-sum-exp, or None where this build has none."""
    try:
        kernel = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001
        probe = torch.ones(1, 1, 1, 8)
        out, lse = kernel(probe, probe, probe, 0.0, False, attn_mask=None, scale=0.5)
    except (AttributeError, RuntimeError, TypeError, NotImplementedError):
        return None
    return kernel if out.shape == probe.shape and abs(float(lse) - 4.0) < 1e-5 else None


def _plain_partial(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """(n, Hk, m, d) queries over (n, Hk, L, d): result, and log-sum-exp (n, Hk, m) float32."""
    scores = (q @ k.transpose(-1, -2)).float().mul_(spec.scale)
    if spec.softcap is not None:
        scores = scores.div_(spec.softcap).tanh_().mul_(spec.softcap)
    if mask is not None:
        scores = scores.add_(mask)
    lse = scores.logsumexp(dim=-1, keepdim=True)
    return (scores - lse).exp_().to(q.dtype) @ v, lse.squeeze(-1)


def _partial(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """As `_plain_partial`, by the fused kernel where it can."""
    kernel = _flash() if spec.softcap is None and q.device.type == "cpu" else None
    if kernel is None:
        return _plain_partial(q, k, v, spec, mask)
    return kernel(q, k, v, 0.0, False, attn_mask=mask, scale=spec.scale)


def _heads_first(x: Tensor) -> Tensor:
    """(L, H, d) to (1, H, L, d)."""
    return x.transpose(0, 1).unsqueeze(0)


def _view(pool: Tensor, start: int, tokens: int, count: int = 1, stride: int = 0) -> Tensor:
    """`count` pieces of a pool (rows, Hk, d), `stride` rows apart, as (count, Hk, tokens, d), in one call."""
    _, heads, dim = pool.shape
    width = heads * dim
    return pool.as_strided((count, heads, tokens, dim), (stride * width, dim, width, 1), start * width)


@dataclass(frozen=True)
class _Call:
    """One attention call.

    Attributes:
        rows: who asks.
        start, tokens: the (first) piece.
        stride: pool rows between one row's piece and the next one's; None when all rows read the same piece.
        mask: (n, 1, 1, tokens), 0 or -inf, or None.
    """

    rows: list[int]
    start: int
    tokens: int
    stride: int | None
    mask: Tensor | None

    def run(self, q: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
        """q (n, Hk, G, d) of its rows: partial results (n, Hk, G, d), log-sum-exps (n, Hk, G)."""
        if self.stride is not None:
            k, v = (_view(x, self.start, self.tokens, len(self.rows), self.stride) for x in (keys, values))
            return _partial(q, k, v, spec, self.mask)
        k, v = _view(keys, self.start, self.tokens), _view(values, self.start, self.tokens)
        part, lse = _partial(q.transpose(0, 1).flatten(1, 2).unsqueeze(0), k, v, spec, None)
        shape = (len(self.rows), q.shape[2])
        return part[0].unflatten(1, shape).transpose(0, 1), lse[0].unflatten(1, shape).transpose(0, 1)


class _Level:
    """Calls in which no row occurs twice; their rows one after another are `order`."""

    def __init__(self, calls: list[_Call], batch: int, device: torch.device) -> None:
        self.calls = calls
        order = [row for call in calls for row in call.rows]
        self.whole = order == list(range(batch))
        self.order = torch.tensor(order, device=device)

    def run(self, grouped: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec) -> tuple[Tensor, Tensor]:
        """Results and log-sum-exps of `order`'s rows."""
        q = grouped if self.whole else grouped[self.order]
        pieces = q.split([len(call.rows) for call in self.calls])
        parts = [call.run(piece, keys, values, spec) for call, piece in zip(self.calls, pieces, strict=True)]
        if len(parts) == 1:
            return parts[0]
        return torch.cat([part for part, _ in parts]), torch.cat([lse for _, lse in parts])


class DecodePlan:
    """Which rows read which pieces, for one step and one window; the same for every layer with that window.

    Args:
        rows: per row its pieces in order, the last one ending with the token that asks.
        window: how many last tokens a row may see, or None.
        dtype, device: of the queries.
    """

    def __init__(
        self, rows: Sequence[Sequence[Piece]], window: int | None, dtype: torch.dtype, device: torch.device
    ) -> None:
        seen = [_last(pieces, window) for pieces in rows]
        self.batch = len(rows)
        alone = [(row, pieces[0]) for row, pieces in enumerate(seen) if len(pieces) == 1]
        self.alone = _Level(_batched(alone, dtype, device), self.batch, device) if alone else None
        self.levels: list[_Level] = []
        for depth in range(max((len(pieces) for pieces in seen if len(pieces) > 1), default=0)):
            readers: dict[Piece, list[int]] = {}
            for row, pieces in enumerate(seen):
                if len(pieces) > max(depth, 1):
                    readers.setdefault(pieces[depth], []).append(row)
            shared = [_Call(members, *piece, None, None) for piece, members in readers.items() if len(members) > 1]
            single = [(members[0], piece) for piece, members in readers.items() if len(members) == 1]
            self.levels.append(_Level([*shared, *_batched(single, dtype, device)], self.batch, device))

    def attend(self, q: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec) -> Tensor:
        """q (B or more, Hq, d) over one layer's pool (rows, Hk, d): the same shape; rows of no plan give zeros."""
        grouped = q.unflatten(1, (keys.shape[1], -1))  # (B, Hk, G, d)
        if self.alone is not None and self.alone.whole and len(q) == self.batch:
            return self.alone.run(grouped, keys, values, spec)[0].flatten(1, 2)
        out = torch.zeros_like(grouped, memory_format=torch.contiguous_format)
        inside = grouped[: self.batch]
        if self.alone is not None:
            out[self.alone.order] = self.alone.run(inside, keys, values, spec)[0]
        if self.levels:
            self._merge(inside, out, keys, values, spec)
        return out.flatten(1, 2)

    def _merge(self, grouped: Tensor, out: Tensor, keys: Tensor, values: Tensor, spec: AttentionSpec) -> None:
        result = torch.zeros(grouped.shape, dtype=torch.float32, device=grouped.device)
        total = torch.full(grouped.shape[:-1], -math.inf, dtype=torch.float32, device=grouped.device)
        for level in self.levels:
            part, lse = level.run(grouped, keys, values, spec)
            old = total[level.order]
            new = torch.logaddexp(old, lse)
            shares = (old - new).exp_().unsqueeze(-1), (lse - new).exp_().unsqueeze(-1)
            result[level.order] = result[level.order] * shares[0] + part.float() * shares[1]
            total[level.order] = new
        rows = self.levels[0].order
        out[rows] = result[rows].to(out.dtype)


def _batched(pieces: list[tuple[int, Piece]], dtype: torch.dtype, device: torch.device) -> list[_Call]:
    """(row, piece) pairs as calls over pieces of one rounded length at equal distances."""
    by_size: dict[int, list[tuple[int, int, int]]] = {}
    for row, (start, tokens) in pieces:
        by_size.setdefault(-(-tokens // _GRID) * _GRID, []).append((start, row, tokens))
    calls: list[_Call] = []
    for size, members in by_size.items():
        for run in _equally_spaced(sorted(members)):
            lengths = torch.tensor([tokens for _, _, tokens in run], device=device)
            beyond = torch.arange(size, device=device) >= lengths.unsqueeze(-1)
            mask = torch.zeros(len(run), size, dtype=dtype, device=device).masked_fill_(beyond, -math.inf)
            stride = run[1][0] - run[0][0] if len(run) > 1 else 0
            calls.append(_Call([row for _, row, _ in run], run[0][0], size, stride, mask[:, None, None]))
    return calls


def _equally_spaced(members: list[tuple[int, int, int]]) -> list[list[tuple[int, int, int]]]:
    """Neighbours (sorted by start) in runs of one distance."""
    runs: list[list[tuple[int, int, int]]] = []
    for member in members:
        run = runs[-1] if runs else None
        if run is not None and (len(run) == 1 or member[0] - run[-1][0] == run[1][0] - run[0][0]):
            run.append(member)
        else:
            runs.append([member])
    return runs


def _last(pieces: Sequence[Piece], window: int | None) -> list[Piece]:
    """The pieces of the last `window` tokens."""
    if window is None:
        return list(pieces)
    kept: list[Piece] = []
    for start, tokens in reversed(pieces):
        if window <= 0:
            break
        taken = min(tokens, window)
        kept.append((start + tokens - taken, taken))
        window -= taken
    return kept[::-1]


def chunk_attention(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    """The last n tokens of a sequence over all L of it: q (n, Hq, d), k and v (L, Hk, d) to (n, Hq, d)."""
    query, key, value = _heads_first(q), _heads_first(k), _heads_first(v)
    grouped = query.shape[1] != key.shape[1]
    unbounded = spec.softcap is None and (spec.window is None or spec.window >= k.shape[0])
    if unbounded and q.shape[0] == k.shape[0]:
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=spec.scale, enable_gqa=grouped
        )
        return out[0].transpose(0, 1)
    ahead = torch.arange(k.shape[0] - q.shape[0], k.shape[0], device=q.device)
    behind = ahead[:, None] - torch.arange(k.shape[0], device=q.device)[None, :]
    mask = (behind >= 0) & (behind < (k.shape[0] if spec.window is None else spec.window))
    if spec.softcap is None:
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=spec.scale, enable_gqa=grouped
        )
        return out[0].transpose(0, 1)
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = torch.tanh((query * spec.scale) @ key.transpose(-1, -2) / spec.softcap) * spec.softcap
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1, dtype=torch.float32).to(q.dtype)
    return (weights @ value)[0].transpose(0, 1)

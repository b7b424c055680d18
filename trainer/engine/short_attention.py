"""Attention of short bfloat16 sequences on a CPU, as plain matrix products with a hand-written backward.

Legend: L a sequence's length, Hk key/value heads, G query heads per key/value head, d head dimension.

torch's fused CPU kernel is made for long sequences; below a few hundred tokens, whole-matrix products in bfloat16 with
a float32 softmax take a half to a third of its time (forward and backward). All G query heads of a key head share one
product: q is laid out as (Hk, G*L, d). The probabilities are kept for backward, G*Hk*L values per token in bfloat16.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch import Tensor

from .gemm import runs_on_intel

__all__ = ["longest_short", "short_attention"]


@functools.cache
def longest_short() -> int:
    """Up to which length this way is the faster one; Intel's matrix unit favours the fused kernel earlier."""
    return 256 if runs_on_intel() else 512


@functools.lru_cache(maxsize=32)
def _bias(length: int, window: int | None) -> Tensor:
    """float32 (L, L): 0 where a query may look, else -inf. Every layer asks for the same ones again."""
    index = torch.arange(length)
    behind = index[:, None] - index[None, :]
    allowed = (behind >= 0) & (behind < (length if window is None else window))
    return torch.zeros(length, length).masked_fill_(~allowed, -math.inf)


def _grouped(x: Tensor, kv_heads: int) -> Tensor:
    """(L, Hq, d) to (Hk, G*L, d)."""
    length, heads, dim = x.shape
    return x.view(length, kv_heads, heads // kv_heads, dim).permute(1, 2, 0, 3).reshape(kv_heads, -1, dim)


def _ungrouped(x: Tensor, length: int) -> Tensor:
    """(Hk, G*L, d) to a (L, Hk, G, d) view."""
    kv_heads, rows, dim = x.shape
    return x.view(kv_heads, rows // length, length, dim).permute(2, 0, 1, 3)


class _ShortAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], scale: float, window: int | None
    ) -> Tensor:
        kv_heads = k.shape[1]
        out = torch.empty_like(q, memory_format=torch.contiguous_format)
        kept: list[Tensor] = []
        start = 0
        for length in lengths:
            rows = slice(start, start + length)
            keys, values = k[rows].transpose(0, 1), v[rows].transpose(0, 1)
            scores = torch.bmm(_grouped(q[rows], kv_heads), keys.transpose(1, 2))
            biased = torch.add(_bias(length, window), scores.view(kv_heads, -1, length, length), alpha=scale)
            weights = biased.softmax(dim=-1).to(q.dtype).view(scores.shape)
            mixed = torch.bmm(weights, values)
            out[rows].view(length, kv_heads, -1, q.shape[2]).copy_(_ungrouped(mixed, length))
            kept.append(weights)
            start += length
        ctx.save_for_backward(q, k, v, out, *kept)
        ctx.lengths, ctx.scale = lengths, scale
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        d_out: Tensor = grads[0]
        q, k, v, out, *kept = ctx.saved_tensors
        d_q, d_k, d_v = (torch.empty_like(x, memory_format=torch.contiguous_format) for x in (q, k, v))
        kv_heads, dim = k.shape[1], q.shape[2]
        # row sums of dP * P equal dO . O
        inner = (d_out.float() * out).sum(dim=-1, keepdim=True)
        start = 0
        for length, weights in zip(ctx.lengths, kept, strict=True):
            rows = slice(start, start + length)
            d_mixed = _grouped(d_out[rows], kv_heads)
            d_v[rows].copy_(torch.bmm(weights.transpose(1, 2), d_mixed).transpose(0, 1))
            d_weights = torch.bmm(d_mixed, v[rows].permute(1, 2, 0)).float()
            d_scores = d_weights.sub_(_grouped(inner[rows], kv_heads)).mul_(weights).mul_(ctx.scale).to(q.dtype)
            d_grouped = torch.bmm(d_scores, k[rows].transpose(0, 1))
            d_q[rows].view(length, kv_heads, -1, dim).copy_(_ungrouped(d_grouped, length))
            d_k[rows].copy_(torch.bmm(d_scores.transpose(1, 2), _grouped(q[rows], kv_heads)).transpose(0, 1))
            start += length
        return d_q, d_k, d_v, None, None, None


def short_attention(
    q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], scale: float, window: int | None
) -> Tensor:
    """Causal attention inside each sequence: q (T, Hq, d), k and v (T, Hk, d) to (T, Hq, d)."""
    return _ShortAttention.apply(q, k, v, lengths, scale, window)  # type: ignore[no-any-return]

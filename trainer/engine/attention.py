"""Causal attention over a packed, padding-free batch: one call, three back ends.

Legend: T tokens of the packed batch, Hq query heads, Hk key/value heads (Hq a multiple of Hk), d head dimension.

* `varlen`: torch's `varlen_attn` on CUDA (bfloat16/float16, no softcap).
* `flash`: the `flash_attn` package when it is importable (CUDA, bfloat16/float16, softcap too).
* `sdpa`: one scaled_dot_product_attention per sequence: the CPU path, and everyone's fallback. Short bfloat16
  sequences on a CPU take `short_attention` instead.

Sequence bounds are host integers, so that no layer waits for the device.
"""

from __future__ import annotations

import functools
import importlib.util
import inspect
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn import functional

from renderers import OptionError

from .short_attention import longest_short, short_attention

__all__ = ["AttentionSpec", "Backend", "SequenceBounds", "choose_backend", "packed_attention"]

Backend = Literal["auto", "varlen", "flash", "sdpa"]


@dataclass(frozen=True)
class AttentionSpec:
    """How one layer attends.

    Attributes:
        scale: factor on q.k.
        window: a token sees itself and window - 1 tokens before it; None sees all.
        softcap: scores become softcap * tanh(scores / softcap); None leaves them.
    """

    scale: float
    window: int | None = None
    softcap: float | None = None


@dataclass(frozen=True)
class SequenceBounds:
    """Where the sequences of a packed batch lie.

    Attributes:
        lengths: host integers, in order; they sum to T.
        cu_seqlens: int32 (len(lengths) + 1,) on the device: 0, then running sums.
        max_length: the longest.
    """

    lengths: tuple[int, ...]
    cu_seqlens: Tensor
    max_length: int

    @classmethod
    def of(cls, lengths: Sequence[int], device: torch.device | str = "cpu") -> SequenceBounds:
        sums = [0]
        for length in lengths:
            sums.append(sums[-1] + length)
        cu_seqlens = torch.tensor(sums, dtype=torch.int32).to(device, non_blocking=True)
        return cls(tuple(lengths), cu_seqlens, max(lengths, default=0))


@functools.cache
def _varlen() -> tuple[Any, frozenset[str]] | None:
    """torch's function and the names it takes (they grew from version to version); None where torch has none."""
    try:
        from torch.nn.attention.varlen import varlen_attn
    except ImportError:
        return None
    return varlen_attn, frozenset(inspect.signature(varlen_attn).parameters)


@functools.cache
def _flash() -> Any | None:
    if importlib.util.find_spec("flash_attn") is None:
        return None
    from flash_attn import flash_attn_varlen_func  # pyright: ignore[reportMissingImports]

    return flash_attn_varlen_func


def choose_backend(q: Tensor, spec: AttentionSpec, backend: Backend = "auto") -> Backend:
    """The back end that will run; `OptionError` when the one asked for cannot."""
    fast_dtype = q.is_cuda and q.dtype in (torch.bfloat16, torch.float16)
    can: dict[Backend, bool] = {
        "varlen": fast_dtype and spec.softcap is None and _varlen() is not None,
        "flash": fast_dtype and _flash() is not None,
        "sdpa": True,
    }
    if backend == "auto":
        return next(name for name in ("varlen", "flash", "sdpa") if can[name])
    if not can.get(backend, False):
        able = ", ".join(name for name, able in can.items() if able)
        raise OptionError(
            f"attention backend: expected one of {able} for {q.dtype} on {q.device.type}; got {backend!r}"
        )
    return backend


def packed_attention(
    q: Tensor, k: Tensor, v: Tensor, bounds: SequenceBounds, spec: AttentionSpec, backend: Backend = "auto"
) -> Tensor:
    """Causal attention inside each sequence.

    Args:
        q: (T, Hq, d).
        k, v: (T, Hk, d).
        bounds: the sequences.
        spec: scale, window and softcap of this layer.
        backend: `auto` takes the first that can run.

    Returns:
        (T, Hq, d) in q's dtype.

    Raises:
        OptionError: the back end cannot run these tensors.
    """
    chosen = choose_backend(q, spec, backend)
    if chosen == "varlen":
        return _by_varlen(q, k, v, bounds, spec)
    if chosen == "flash":
        return _by_flash(q, k, v, bounds, spec)
    return _by_sdpa(q, k, v, bounds, spec)


def _by_varlen(q: Tensor, k: Tensor, v: Tensor, bounds: SequenceBounds, spec: AttentionSpec) -> Tensor:
    found = _varlen()
    assert found is not None
    function, takes = found
    if "window_size" not in takes and spec.window is not None and spec.window < bounds.max_length:
        return _by_sdpa(q, k, v, bounds, spec)
    extra: dict[str, Any] = {}
    if "scale" in takes:
        extra["scale"] = spec.scale
    else:  # it scales by 1 / sqrt(d) itself
        q = q * (spec.scale * math.sqrt(q.shape[-1]))
    groups = q.shape[1] // k.shape[1]
    if groups > 1:
        if "enable_gqa" in takes:
            extra["enable_gqa"] = True
        else:  # older torch: the expansion costs a small copy
            k, v = (x.repeat_interleave(groups, dim=1) for x in (k, v))
    if "window_size" in takes:
        extra["window_size"] = (-1 if spec.window is None else spec.window - 1, 0)
    else:
        extra["is_causal"] = True
    cu, longest = bounds.cu_seqlens, bounds.max_length
    return function(q, k, v, cu, cu, longest, longest, **extra)


def _by_flash(q: Tensor, k: Tensor, v: Tensor, bounds: SequenceBounds, spec: AttentionSpec) -> Tensor:
    function = _flash()
    assert function is not None
    cu, longest = bounds.cu_seqlens, bounds.max_length
    window = (-1, -1) if spec.window is None else (spec.window - 1, 0)
    return function(
        q, k, v, cu, cu, longest, longest,
        softmax_scale=spec.scale, causal=True, window_size=window, softcap=spec.softcap or 0.0,
    )  # fmt: skip


def _by_sdpa(q: Tensor, k: Tensor, v: Tensor, bounds: SequenceBounds, spec: AttentionSpec) -> Tensor:
    lengths = list(bounds.lengths)
    short = q.dtype == torch.bfloat16 and not q.is_cuda and spec.softcap is None
    if short and bounds.max_length <= longest_short():
        return short_attention(q, k, v, bounds.lengths, spec.scale, spec.window)
    # split, not slices: its backward is one concatenation instead of a full-size zero tensor per sequence
    pieces = zip(q.split(lengths), k.split(lengths), v.split(lengths), strict=True)
    return torch.cat(
        [
            short_attention(*piece, (length,), spec.scale, spec.window)
            if short and length <= longest_short()
            else _one_sequence(*piece, spec)
            for length, piece in zip(lengths, pieces, strict=True)
        ]
    )


def _one_sequence(q: Tensor, k: Tensor, v: Tensor, spec: AttentionSpec) -> Tensor:
    """(L, H, d) tensors of one sequence to (L, Hq, d)."""
    length = q.shape[0]
    query, key, value = (x.transpose(0, 1).unsqueeze(0) for x in (q, k, v))
    grouped = query.shape[1] != key.shape[1]
    if spec.softcap is not None:
        out = _softcapped(query, key, value, spec)
    elif spec.window is not None and spec.window < length:
        mask = _window_mask(length, spec.window, q.device)
        out = functional.scaled_dot_product_attention(
            query, key, value, attn_mask=mask, scale=spec.scale, enable_gqa=grouped
        )
    else:
        out = functional.scaled_dot_product_attention(
            query, key, value, is_causal=True, scale=spec.scale, enable_gqa=grouped
        )
    return out.squeeze(0).transpose(0, 1)


def _window_mask(length: int, window: int | None, device: torch.device) -> Tensor:
    """bool (L, L): True where a query may look."""
    ahead = torch.arange(length, device=device)
    behind = ahead[:, None] - ahead[None, :]
    return (behind >= 0) & (behind < (window if window is not None else length))


def _softcapped(query: Tensor, key: Tensor, value: Tensor, spec: AttentionSpec) -> Tensor:
    assert spec.softcap is not None
    groups = query.shape[1] // key.shape[1]
    key, value = (x.repeat_interleave(groups, dim=1) for x in (key, value))
    scores = (query * spec.scale) @ key.transpose(-1, -2)
    scores = torch.tanh(scores / spec.softcap) * spec.softcap
    mask = _window_mask(query.shape[2], spec.window, query.device)
    weights = scores.masked_fill(~mask, -math.inf).softmax(dim=-1, dtype=torch.float32).to(query.dtype)
    return weights @ value

"""Norm, rotary embedding and gated activation with hand-written backward: fewer passes over memory than autograd's.

Legend: T tokens, D hidden, H heads, d head dimension, F inner width of the MLP. Weights are frozen, so no weight
gradient is ever made. Statistics are float32 whatever the dtype.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["gated", "rms_norm", "rotate"]


def _normed(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The normed x in its own dtype, and 1 / rms float32 (..., 1)."""
    x32 = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    inverse = torch.linalg.vector_norm(x32, dim=-1, keepdim=True).square_().div_(x.shape[-1]).add_(eps).rsqrt_()
    out = x32 * inverse if x32 is x else x32.mul_(inverse)
    return out.mul_(weight).to(x.dtype), inverse


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        out, inverse = _normed(x, weight, eps)
        ctx.save_for_backward(x, weight, inverse)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dy: Tensor = grads[0]
        x, weight, inverse = ctx.saved_tensors
        x32 = x.to(inverse.dtype)
        g = dy * weight if weight.dtype == inverse.dtype else dy.to(inverse.dtype).mul_(weight)
        # dx = inverse * (g - x * inverse^2 * mean(g * x))
        share = torch.linalg.vecdot(g, x32).unsqueeze(-1).mul_(inverse.square()).div_(-x.shape[-1])
        return g.addcmul_(x32, share).mul_(inverse).to(x.dtype), None, None


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """x / rms(x) * weight over the last dimension, any leading shape."""
    if torch.is_grad_enabled() and x.requires_grad:
        return _RmsNorm.apply(x, weight, eps)  # type: ignore[no-any-return]
    return _normed(x, weight, eps)[0]


def _rotated(x: Tensor, cos: Tensor, sin: Tensor, sign: float) -> Tensor:
    half = cos.shape[-1]
    out = torch.empty(x.shape, dtype=x.dtype, device=x.device)
    first, second = x[..., :half], x[..., half : 2 * half]
    torch.mul(first, cos, out=out[..., :half]).addcmul_(second, sin, value=-sign)
    torch.mul(second, cos, out=out[..., half : 2 * half]).addcmul_(first, sin, value=sign)
    if 2 * half < x.shape[-1]:  # partial rotary: the rest passes through
        out[..., 2 * half :] = x[..., 2 * half :]
    return out


class _Rotate(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return _rotated(x, cos, sin, 1.0)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        cos, sin = ctx.saved_tensors
        return _rotated(grads[0], cos, sin, -1.0), None, None


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding, halves paired (i, i + rotary/2) as transformers does.

    Args:
        x: (T, H, d).
        cos, sin: (T, 1, rotary/2) in x's dtype.
    """
    if torch.is_grad_enabled() and x.requires_grad:
        return _Rotate.apply(x, cos, sin)  # type: ignore[no-any-return]
    return _rotated(x, cos, sin, 1.0)


def _activate(gate: Tensor, activation: str) -> Tensor:
    return (
        functional.silu(gate) if activation == "silu" else functional.gelu(gate, approximate=_approximate(activation))
    )


def _approximate(activation: str) -> str:
    return "tanh" if activation == "gelu_tanh" else "none"


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: Tensor, activation: str) -> Tensor:
        ctx.save_for_backward(gate_up)
        ctx.activation = activation
        gate, up = gate_up.chunk(2, dim=-1)
        return _activate(gate, activation).mul_(up)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dh: Tensor = grads[0]
        (gate_up,) = ctx.saved_tensors
        gate, up = gate_up.chunk(2, dim=-1)
        out = torch.empty_like(gate_up)
        dgate, dup = out.chunk(2, dim=-1)
        torch.mul(dh, _activate(gate, ctx.activation), out=dup)
        upstream = dh * up
        if ctx.activation == "silu":
            dgate.copy_(torch.ops.aten.silu_backward(upstream, gate))
        else:
            dgate.copy_(torch.ops.aten.gelu_backward(upstream, gate, approximate=_approximate(ctx.activation)))
        return out, None


def gated(gate_up: Tensor, activation: str) -> Tensor:
    """activation(gate) * up for gate_up (T, 2F) = [gate, up]; activation is silu, gelu or gelu_tanh. Gives (T, F)."""
    if torch.is_grad_enabled() and gate_up.requires_grad:
        return _Gated.apply(gate_up, activation)  # type: ignore[no-any-return]
    gate, up = gate_up.chunk(2, dim=-1)
    return _activate(gate, activation).mul_(up)

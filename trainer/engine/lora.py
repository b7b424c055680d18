"""LoRA over a frozen, fused projection, for tokens of many adapters at once.

Legend: T tokens of the packed batch, I inputs, O outputs of the fused matrix, S sites fused in it, R an adapter's rank.

A `Projection` is one frozen matrix (O, I) whose rows are the concatenated *sites* ([q; k; v], [gate; up], or a single
matrix). All sites of a projection read the same x, so their A matrices are stacked to one (S*R, I) operand, while each
site keeps its own B (rows of the site, R). Tokens come grouped: a `Segment` says which adapter owns rows start..stop.

Frozen weights never get a gradient. Adapter gradients are added to the adapter's own float32 buffer inside backward,
because autograd would allocate, cast and add one tensor per use instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from .gemm import linear, product

__all__ = [
    "AdapterWeights",
    "LoraPart",
    "Projection",
    "Segment",
    "Site",
    "add_product",
    "anchor",
    "bias_of",
    "lora_linear",
]

SiteKind = Literal["attn", "mlp", "unembed"]


@dataclass(frozen=True)
class Site:
    """One matrix that can carry a low-rank pair.

    Attributes:
        name: the transformers module path, such as `model.layers.0.self_attn.q_proj`.
        start, stop: its rows inside the fused projection.
    """

    name: str
    start: int
    stop: int


@dataclass(frozen=True)
class Projection:
    """A frozen matrix and the sites fused in it.

    Attributes:
        key: unique name inside the model.
        kind: which `LoraConfig` flag trains it.
        weight: (O, I); (experts, O, I) for a bank of experts.
        bias: (O,) or None.
        sites: in row order; they tile 0..O.
        experts: number of experts when this is a bank, else 0.
    """

    key: str
    kind: SiteKind
    weight: Tensor
    bias: Tensor | None
    sites: tuple[Site, ...]
    experts: int = 0

    @property
    def in_features(self) -> int:
        return self.weight.shape[-1]

    @property
    def out_features(self) -> int:
        return self.weight.shape[-2]


@dataclass(frozen=True)
class LoraPart:
    """An adapter's matrices for one projection (or for one expert of a bank), views into its flat buffers.

    Attributes:
        a: (S*R, I) in the compute dtype.
        bs: per site (stop - start, R) in the compute dtype.
        rows: per site (start, stop).
        grad_a, grad_bs: float32 views of the same shapes, or None when nothing is trained (sampling).
    """

    a: Tensor
    bs: tuple[Tensor, ...]
    rows: tuple[tuple[int, int], ...]
    rank: int
    scale: float
    grad_a: Tensor | None = None
    grad_bs: tuple[Tensor, ...] | None = None

    def expert(self, index: int) -> LoraPart:
        """The part of one expert when `a` and `bs` carry a leading expert dimension."""
        grads = None if self.grad_bs is None else tuple(b[index] for b in self.grad_bs)
        grad_a = None if self.grad_a is None else self.grad_a[index]
        return LoraPart(
            self.a[index], tuple(b[index] for b in self.bs), self.rows, self.rank, self.scale, grad_a, grads
        )


@dataclass(frozen=True)
class AdapterWeights:
    """What the forward needs of one adapter: its parts by projection key. Immutable; `version` names its content."""

    parts: dict[str, LoraPart]
    version: int = 0


@dataclass(frozen=True)
class Segment:
    """Rows start..stop of the packed batch belong to `weights` (None: the base model alone)."""

    weights: AdapterWeights | None
    start: int
    stop: int


@dataclass(frozen=True)
class _Run:
    part: LoraPart
    start: int
    stop: int


def bias_of(linear: Any) -> Tensor | None:
    """A frozen linear layer's bias, or None."""
    bias: Tensor | None = getattr(linear, "bias", None)
    return None if bias is None else bias.detach()


def add_product(out: Tensor, left: Tensor, right: Tensor, alpha: float) -> None:
    """out += alpha * left @ right, `out` float32 whatever the operands' dtype."""
    if out.dtype == left.dtype:
        out.addmm_(left, right, alpha=alpha)
    elif left.is_cuda:
        out.add_(torch.mm(left, right, out_dtype=torch.float32), alpha=alpha)
    else:
        out.add_(left @ right, alpha=alpha)


def _forward_part(x: Tensor, y: Tensor, part: LoraPart) -> Tensor:
    """Adds the low-rank output to y in place; gives z = x A^T, (rows, S*R)."""
    z = linear(x, part.a)
    rank = part.rank
    for i, (start, stop) in enumerate(part.rows):
        y[:, start:stop].addmm_(z[:, i * rank : (i + 1) * rank], part.bs[i].T, alpha=part.scale)
    return z


def _backward_part(x: Tensor, z: Tensor, dy: Tensor, dx: Tensor | None, part: LoraPart) -> None:
    """Adds this run's share to dx in place and to the adapter's gradient."""
    rank = part.rank
    dz = torch.empty_like(z)
    for i, (start, stop) in enumerate(part.rows):
        columns = slice(i * rank, (i + 1) * rank)
        dy_site = dy[:, start:stop]
        torch.mm(dy_site, part.bs[i], out=dz[:, columns])
        if part.grad_bs is not None:
            add_product(part.grad_bs[i], dy_site.T, z[:, columns], part.scale)
    if part.grad_a is not None:
        add_product(part.grad_a, dz.T, x, part.scale)
    if dx is not None:
        dx.addmm_(dz, part.a, alpha=part.scale)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, leaf: Tensor, weight: Tensor, bias: Tensor | None, runs: list[_Run]) -> Tensor:
        del leaf  # there only so that backward runs where x itself needs no gradient (the first layer)
        y = linear(x, weight, bias)
        zs = [_forward_part(x[run.start : run.stop], y[run.start : run.stop], run.part) for run in runs]
        ctx.save_for_backward(x, weight, *zs)
        ctx.runs = runs
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        dy: Tensor = grads[0]
        x, weight, *zs = ctx.saved_tensors
        dx = product(dy, weight) if ctx.needs_input_grad[0] else None
        for run, z in zip(ctx.runs, zs, strict=True):
            rows = slice(run.start, run.stop)
            _backward_part(x[rows], z, dy[rows], None if dx is None else dx[rows], run.part)
        return dx, None, None, None, None


_ANCHORS: dict[torch.device, Tensor] = {}


def anchor(device: torch.device) -> Tensor:
    """A leaf that makes backward run where the input itself needs no gradient."""
    if device not in _ANCHORS:
        _ANCHORS[device] = torch.zeros((), device=device, requires_grad=True)
    return _ANCHORS[device]


def lora_linear(x: Tensor, projection: Projection, segments: Sequence[Segment], *, expert: int | None = None) -> Tensor:
    """The projection with every segment's low-rank pair added.

    Args:
        x: (T, I) in the base's dtype.
        projection: the frozen matrix.
        segments: disjoint row ranges; rows of no segment get the base alone.
        expert: which expert of a bank.

    Returns:
        (T, O).
    """
    weight = projection.weight if expert is None else projection.weight[expert]
    runs: list[_Run] = []
    for segment in segments:
        part = segment.weights.parts.get(projection.key) if segment.weights is not None else None
        if part is not None and segment.stop > segment.start:
            runs.append(_Run(part if expert is None else part.expert(expert), segment.start, segment.stop))
    if not torch.is_grad_enabled():
        y = linear(x, weight, projection.bias)
        for run in runs:
            _forward_part(x[run.start : run.stop], y[run.start : run.stop], run.part)
        return y
    if not runs and not x.requires_grad:
        return linear(x, weight, projection.bias)
    return _LoraLinear.apply(x, anchor(x.device), weight, projection.bias, runs)  # type: ignore[no-any-return]

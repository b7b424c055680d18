"""Mixture of experts inside the generic decoder: Mixtral, Qwen2-MoE (with its shared expert), Qwen3-MoE.

Legend: T tokens, D hidden, E experts, k experts per token.

Tokens are sorted by expert, and inside an expert stay in batch order, so each adapter's rows are still one run: the
same `lora_linear` serves dense layers and experts, each expert with its own low-rank pair.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor
from torch.nn import functional

from .layer_ops import gated
from .lora import Projection, Segment, lora_linear

if TYPE_CHECKING:
    from .decoder import DenseMlp

__all__ = ["MoeMlp"]


@dataclass(frozen=True)
class MoeMlp:
    """Top-k routed experts, plus a gated shared expert where the family has one.

    Attributes:
        router: (E, D), frozen and without a low-rank pair.
        normalise: whether the k chosen probabilities are scaled to sum to one.
        round_scores: whether the scores are rounded to the base's dtype (Qwen) or stay float32 (Mixtral).
        shared, shared_gate: the shared expert and its (1, D) gate, or None.
    """

    router: Tensor
    top_k: int
    normalise: bool
    round_scores: bool
    gate_up: Projection
    down: Projection
    activation: str
    shared: DenseMlp | None = None
    shared_gate: Tensor | None = None

    @property
    def projections(self) -> tuple[Projection, ...]:
        shared = self.shared.projections if self.shared is not None else ()
        return (self.gate_up, self.down, *shared)

    def __call__(self, x: Tensor, segments: Sequence[Segment]) -> Tensor:
        scores, chosen = self._route(x)
        order = chosen.flatten().argsort(stable=True)  # by expert, then by token
        rows = order // self.top_k
        counts = torch.bincount(chosen.flatten(), minlength=self.gate_up.experts).tolist()
        outputs = [
            self._expert(index, x[part], part, segments)
            for index, part in enumerate(rows.split(counts))
            if len(part) > 0
        ]
        weighted = torch.cat(outputs) * scores.flatten()[order].unsqueeze(-1)
        mixed = torch.zeros_like(x).index_add(0, rows, weighted.to(x.dtype))
        if self.shared is not None:
            assert self.shared_gate is not None
            mixed = mixed + torch.sigmoid(functional.linear(x, self.shared_gate)) * self.shared(x, segments)
        return mixed

    def _route(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Scores and expert ids, each (T, k)."""
        probabilities = functional.linear(x, self.router).softmax(dim=-1, dtype=torch.float32)
        scores, chosen = probabilities.topk(self.top_k, dim=-1)
        if self.normalise:
            scores = scores / scores.sum(dim=-1, keepdim=True)
        return (scores.to(x.dtype) if self.round_scores else scores), chosen

    def _expert(self, index: int, x: Tensor, rows: Tensor, segments: Sequence[Segment]) -> Tensor:
        """One expert's output for its tokens; `rows` are their places in the batch, ascending."""
        bounds = torch.tensor([edge for s in segments for edge in (s.start, s.stop)], device=rows.device)
        edges = torch.searchsorted(rows, bounds).tolist() if segments else []
        mine = [
            Segment(s.weights, start, stop)
            for s, start, stop in zip(segments, edges[::2], edges[1::2], strict=True)
            if stop > start
        ]
        hidden = gated(lora_linear(x, self.gate_up, mine, expert=index), self.activation)
        return lora_linear(hidden, self.down, mine, expert=index)

"""`target_logprobs`: per-token log-probabilities as an ordinary differentiable tensor, logits never materialised."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .head import Head
from .lora import Segment, anchor

__all__ = ["target_logprobs"]


class _TargetLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, leaf: Tensor, targets: Tensor, head: Head, segments: Sequence[Segment]
    ) -> Tensor:
        del leaf  # an adapter on the head alone trains with a hidden state that needs no gradient
        ctx.save_for_backward(hidden, targets)
        ctx.head, ctx.segments = head, segments
        return head.score(hidden, targets, segments)[0]

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        hidden, targets = ctx.saved_tensors
        upstream: Tensor = grads[0]

        def grad_of(logprobs: Tensor, start: int, stop: int) -> Tensor:
            del logprobs
            return upstream[start:stop]

        _, d_hidden = ctx.head.score(hidden, targets, ctx.segments, grad_of)
        return d_hidden, None, None, None, None


def target_logprobs(hidden: Tensor, head: Head, targets: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
    """log p(target | prefix) at temperature 1.

    The chunks' logits are computed again in backward. Where the loss is known per token beforehand, `Head.score` with
    `grad_of` does both in one pass; the engine uses that.

    Args:
        hidden: (T, D) after the final norm.
        head: the frozen head.
        targets: int64 (T,) or (T, K).
        segments: adapters by rows.

    Returns:
        float32 of targets' shape.
    """
    wide = targets if targets.dim() == 2 else targets.unsqueeze(-1)
    logprobs: Tensor = _TargetLogprobs.apply(hidden, anchor(hidden.device), wide, head, segments)  # type: ignore[assignment]
    return logprobs if targets.dim() == 2 else logprobs.squeeze(-1)

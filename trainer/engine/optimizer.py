"""AdamW over an adapter's flat buffers: a handful of passes, whatever the number of matrices."""

from __future__ import annotations

import math

import torch

from renderers import UserError
from trainer.protocol import AdamParams

from .adapters import Adapter

__all__ = ["adamw_step"]


@torch.no_grad()
def adamw_step(adapter: Adapter, params: AdamParams) -> dict[str, float]:
    """One decoupled-weight-decay Adam step with bias correction, from the accumulated gradients, which it clears.

    Args:
        adapter: stepped in place; its `step` and `version` grow by one.
        params: all fields honoured; `grad_clip_norm` 0 is off.

    Returns:
        `grad_norm` (before clipping), `update_norm` (of what was added to the parameters), `learning_rate`, `step`.

    Raises:
        UserError: the gradients are not finite; they are cleared, and nothing else changes.
    """
    grads, exp_avg, exp_avg_sq = adapter.grads, adapter.exp_avg, adapter.exp_avg_sq
    grad_norm = float(torch.linalg.vector_norm(grads))
    adapter.pending = 0
    if not math.isfinite(grad_norm):
        grads.zero_()
        raise UserError(f"optim_step: expected finite gradients; their norm is {grad_norm}; they are cleared, unused")
    if params.grad_clip_norm > 0 and grad_norm > params.grad_clip_norm:
        grads.mul_(params.grad_clip_norm / grad_norm)
    adapter.step += 1
    exp_avg.lerp_(grads, 1 - params.beta1)
    exp_avg_sq.mul_(params.beta2).addcmul_(grads, grads, value=1 - params.beta2)
    correction1 = 1 - params.beta1**adapter.step
    correction2 = 1 - params.beta2**adapter.step
    # The gradient is used up: its buffer takes the denominator, then the update.
    update = torch.sqrt(exp_avg_sq, out=grads).div_(math.sqrt(correction2)).add_(params.eps)
    torch.div(exp_avg, update, out=update).mul_(-params.learning_rate / correction1)
    if params.weight_decay > 0:
        update.add_(adapter.params, alpha=-params.learning_rate * params.weight_decay)
    adapter.params.add_(update)
    update_norm = float(torch.linalg.vector_norm(update))
    grads.zero_()
    adapter.version += 1
    return {
        "grad_norm": grad_norm,
        "update_norm": update_norm,
        "learning_rate": params.learning_rate,
        "step": float(adapter.step),
    }

"""The head: hidden states to logits or to target logprobs, without ever holding all logits.

Legend: T tokens, D hidden, V vocabulary, K targets per position, n rows of a chunk.

The base's head is frozen, so it never gets a weight gradient; a low-rank pair on it (`train_unembed`) does.
Log-sum-exp and everything after the matrix product is float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .gemm import linear, product
from .lora import LoraPart, Projection, Segment, add_product

__all__ = ["GradOf", "Head"]

# (logprobs (n, K), first row, one past last row) -> d loss / d logprobs (n, K), or None where nothing flows back
GradOf = Callable[[Tensor, int, int], Tensor | None]
# One chunk holds a float32 row, a row in the base's dtype and (with a softcap) one more: far below the 1 GB promised.
_CHUNK_BYTES = 512 << 20
_MAX_CHUNK_ROWS = 512


@dataclass(frozen=True)
class Head:
    """The frozen output matrix and what the family does to its logits.

    Attributes:
        projection: (V, D), with the site that `train_unembed` trains.
        softcap: logits become softcap * tanh(logits / softcap), or None.
        scale: factor on logits.
    """

    projection: Projection
    softcap: float | None = None
    scale: float = 1.0

    def logits(self, hidden: Tensor, segments: Sequence[Segment] = ()) -> Tensor:
        """All logits of some rows, float32 (n, V): for sampling, never for training."""
        raw = linear(hidden, self.projection.weight, self.projection.bias)
        for part, start, stop in _clip(self.projection.key, segments, 0, len(hidden)):
            raw[start:stop].addmm_(hidden[start:stop] @ part.a.T, part.bs[0].T, alpha=part.scale)
        return self.finish(raw)

    def finish(self, raw: Tensor) -> Tensor:
        """Float32 logits from the matrix product's output, which may be overwritten."""
        logits = raw.float()
        if self.scale != 1.0:
            logits = logits.mul_(self.scale)
        if self.softcap is not None:
            logits = logits.div_(self.softcap).tanh_().mul_(self.softcap)
        return logits

    def chunk_rows(self) -> int:
        """Rows scored at once."""
        copies = 4 + self.projection.weight.element_size() + (4 if self.softcap is not None else 0)
        return max(1, min(_MAX_CHUNK_ROWS, _CHUNK_BYTES // (self.projection.out_features * copies)))

    @torch.no_grad()
    def score(
        self, hidden: Tensor, targets: Tensor, segments: Sequence[Segment] = (), grad_of: GradOf | None = None
    ) -> tuple[Tensor, Tensor | None]:
        """Target logprobs, and at the same pass the gradient with respect to `hidden`.

        Args:
            hidden: (T, D); detached by the caller.
            targets: int64 (T, K).
            segments: adapters by rows; their head gradients are added to their own buffers.
            grad_of: called once per chunk with its logprobs; None scores only.

        Returns:
            logprobs float32 (T, K), and d loss / d hidden (T, D) in hidden's dtype (None without `grad_of`).
        """
        logprobs = torch.empty(targets.shape, dtype=torch.float32, device=hidden.device)
        d_hidden = torch.zeros_like(hidden) if grad_of is not None else None
        step = self.chunk_rows()
        for start in range(0, len(hidden), step):
            stop = min(start + step, len(hidden))
            parts = _clip(self.projection.key, segments, start, stop)
            chunk = _Chunk(self, hidden[start:stop], targets[start:stop], parts)
            logprobs[start:stop] = chunk.logprobs
            if grad_of is not None and d_hidden is not None:
                grad = grad_of(chunk.logprobs, start, stop)
                if grad is not None:
                    chunk.backward(grad, d_hidden[start:stop])
            del chunk  # before the next one is made: two at once would double the peak
        return logprobs, d_hidden


def _clip(key: str, segments: Sequence[Segment], start: int, stop: int) -> list[tuple[LoraPart, int, int]]:
    """The head's parts inside rows start..stop, with bounds counted from `start`."""
    found: list[tuple[LoraPart, int, int]] = []
    for segment in segments:
        part = segment.weights.parts.get(key) if segment.weights is not None else None
        low, high = max(segment.start, start), min(segment.stop, stop)
        if part is not None and low < high:
            found.append((part, low - start, high - start))
    return found


class _Chunk:
    """Some rows' logits, scored; then, if asked, turned in place into their own gradient."""

    def __init__(self, head: Head, hidden: Tensor, targets: Tensor, parts: list[tuple[LoraPart, int, int]]) -> None:
        self.head, self.hidden, self.targets, self.parts = head, hidden, targets, parts
        raw = linear(hidden, head.projection.weight, head.projection.bias)
        self.zs = [hidden[start:stop] @ part.a.T for part, start, stop in parts]
        for (part, start, stop), z in zip(parts, self.zs, strict=True):
            raw[start:stop].addmm_(z, part.bs[0].T, alpha=part.scale)
        logits = head.finish(raw)
        # d capped / d raw = 1 - (capped / softcap)^2
        self.slope = None if head.softcap is None else logits.div(head.softcap).square_().neg_().add_(1.0)
        chosen = logits.gather(1, targets)
        peak = logits.amax(dim=-1, keepdim=True)
        self.exponentials = logits.sub_(peak).exp_()
        self.total = self.exponentials.sum(dim=-1, keepdim=True)
        self.logprobs = chosen - peak - self.total.log()

    def backward(self, grad: Tensor, d_hidden: Tensor) -> None:
        """Adds d loss / d hidden for d loss / d logprobs `grad` (n, K); consumes the exponentials."""
        d_logits = self.exponentials.mul_(grad.sum(dim=-1, keepdim=True).div_(self.total).neg_())
        d_logits.scatter_add_(1, self.targets, grad)
        if self.slope is not None:
            d_logits.mul_(self.slope)
        if self.head.scale != 1.0:
            d_logits.mul_(self.head.scale)
        self._through_head(d_logits.to(self.hidden.dtype), grad, d_hidden)

    def _through_head(self, d_logits: Tensor, grad: Tensor, d_hidden: Tensor) -> None:
        weight = self.head.projection.weight
        live = grad.ne(0).any(dim=-1).nonzero().squeeze(-1)
        if len(live) == len(grad):
            d_hidden.copy_(product(d_logits, weight))
        elif len(live) > 0:  # rows without loss (a prompt) cost no second product
            d_hidden[live] = product(d_logits[live], weight)
        for (part, start, stop), z in zip(self.parts, self.zs, strict=True):
            rows = d_logits[start:stop]
            dz = rows @ part.bs[0]
            d_hidden[start:stop].addmm_(dz, part.a, alpha=part.scale)
            if part.grad_a is not None and part.grad_bs is not None:
                add_product(part.grad_bs[0], rows.T, z, part.scale)
                add_product(part.grad_a, dz.T, self.hidden[start:stop], part.scale)

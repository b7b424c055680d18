"""One pass: a packed batch through trunk, head and losses, and back.

Where every loss of the pass depends on each token alone, the head turns each chunk of logits into its gradient at
once; otherwise (a sequence-level loss) it scores first and computes the chunks again with the gradient in hand.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from .base_model import BaseModel
from .lora import AdapterWeights, Segment
from .packing import PackedBatch, RequestRows
from .requests import CheckedRequest

__all__ = ["Pass", "PassResult"]


@dataclass(frozen=True)
class PassResult:
    """Logprobs float32 (scored rows, K) on the host, and the loss sum per request in the pass."""

    logprobs: npt.NDArray[np.float32]
    losses: dict[int, float]


class Pass:
    """A packed batch with everything it needs to run."""

    def __init__(
        self,
        base: BaseModel,
        requests: Sequence[CheckedRequest],
        batch: PackedBatch,
        weights: Sequence[AdapterWeights],
        checkpoint_layers: int,
    ) -> None:
        self.base = base
        self.requests = requests
        self.batch = batch
        self.segments = [Segment(weights[r], start, stop) for r, start, stop in batch.spans]
        self.head_segments = [Segment(weights[rows.request], rows.start, rows.stop) for rows in batch.rows]
        self.checkpoint_layers = checkpoint_layers
        self.backward = any(requests[r].request.backward for r, _, _ in batch.spans)
        self.losses: dict[int, list[Tensor]] = {rows.request: [] for rows in batch.rows}

    def run(self) -> PassResult:
        """Accumulates gradients as a side effect when a request of the pass asks for backward."""
        mode: AbstractContextManager[object] = nullcontext() if self.backward else torch.no_grad()
        batch = self.batch
        with mode:
            hidden = self.base.trunk.hidden(
                batch.tokens, batch.positions, batch.bounds, self.segments, self.checkpoint_layers
            )
        scored = hidden.detach()
        rows = None if batch.scored is None else torch.from_numpy(batch.scored).to(hidden.device)
        if rows is not None:
            scored = scored.index_select(0, rows)
        logprobs, d_scored = self._score(scored)
        if d_scored is not None and hidden.requires_grad:
            d_hidden = d_scored if rows is None else torch.zeros_like(hidden).index_copy_(0, rows, d_scored)
            hidden.backward(d_hidden)
        losses = {r: float(torch.stack(parts).sum()) if parts else 0.0 for r, parts in self.losses.items()}
        return PassResult(logprobs.cpu().numpy(), losses)

    def _score(self, hidden: Tensor) -> tuple[Tensor, Tensor | None]:
        head, targets, segments = self.base.head, self.batch.targets, self.head_segments
        if all(self.requests[rows.request].loss.per_token for rows in self.batch.rows):
            if self.backward:
                return head.score(hidden, targets, segments, self._chunk_grad)
            logprobs, _ = head.score(hidden, targets, segments)
            self._grad(logprobs, 0, len(hidden))
            return logprobs, None
        logprobs, _ = head.score(hidden, targets, segments)
        grad = self._grad(logprobs, 0, len(hidden))
        if not self.backward:
            return logprobs, None
        _, d_hidden = head.score(hidden, targets, segments, lambda _, start, stop: grad[start:stop])
        return logprobs, d_hidden

    def _chunk_grad(self, logprobs: Tensor, start: int, stop: int) -> Tensor:
        return self._grad(logprobs, start, stop)

    def _grad(self, logprobs: Tensor, start: int, stop: int) -> Tensor:
        """d loss / d logprobs for scored rows start..stop; records the loss of each request on the way."""
        grad = torch.zeros_like(logprobs)
        for rows in self.batch.rows:
            low, high = max(rows.start, start), min(rows.stop, stop)
            if low < high:
                mine = slice(low - start, high - start)
                self._request_grad(rows, logprobs[mine], grad[mine], low, high)
        return grad

    def _request_grad(self, rows: RequestRows, logprobs: Tensor, grad: Tensor, low: int, high: int) -> None:
        """One request's share of a chunk; `grad` (n, K) is filled where the request wants backward.

        Columns beyond the request's own K are another request's, and stay zero.
        """
        request = self.requests[rows.request]
        inputs = rows.inputs.rows(low - rows.start, high - rows.start)
        logprobs, grad = logprobs[:, : rows.width], grad[:, : rows.width]
        narrow = rows.width == 1
        backward = request.request.backward
        with torch.enable_grad():
            leaf = (logprobs.squeeze(-1) if narrow else logprobs).detach().requires_grad_(backward)
            per_token = request.loss.function(leaf, inputs, request.settings)
            loss = per_token.sum(dtype=torch.float64)
        self.losses[rows.request].append(loss.detach())
        if backward and loss.requires_grad:
            (found,) = torch.autograd.grad(loss, leaf)
            grad.copy_(found.unsqueeze(-1) if narrow else found)

"""Logprobs of a prompt's own tokens, from the hidden states of its prefill."""

from __future__ import annotations

import torch
from torch import Tensor

from trainer.engine import AdapterWeights, Head, Segment

from .request import Request

__all__ = ["score_prompt", "topk_of"]


@torch.no_grad()
def score_prompt(head: Head, request: Request, hidden: Tensor, start: int) -> None:
    """Fills the request's prompt results for the tokens after each of `hidden`'s.

    Args:
        head: the trainer's head.
        hidden: (n, D), states of prompt tokens start..start + n.
        start: the first one's position.
    """
    weights = None if request.snapshot is None else request.snapshot.weights
    stop = min(start + len(hidden), len(request.prompt) - 1)
    for first in range(start, stop, head.chunk_rows()):
        last = min(first + head.chunk_rows(), stop)
        _score(head, request, hidden[first - start : last - start], weights, first + 1, last + 1)


def _score(head: Head, request: Request, hidden: Tensor, weights: AdapterWeights | None, start: int, stop: int) -> None:
    """The prompt's tokens start..stop, each from the state before it."""
    targets = torch.from_numpy(request.prompt[start:stop].astype("int64")).to(hidden.device).unsqueeze(-1)
    segments = [Segment(weights, 0, len(hidden))]
    if request.prompt_logprobs is not None:
        logprobs, _ = head.score(hidden, targets, segments)
        request.prompt_logprobs[start:stop] = logprobs[:, 0].cpu().numpy()
    if request.topk_prompt_logprobs is not None:
        ids, values = topk_of(head.logits(hidden, segments), request.topk_prompt)
        request.topk_prompt_logprobs.token_ids[start:stop, : ids.shape[1]] = ids.cpu().numpy()
        request.topk_prompt_logprobs.logprobs[start:stop, : ids.shape[1]] = values.cpu().numpy()


def topk_of(logits: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The k likeliest ids (or all, when there are fewer) of (n, V) logits, and their logprobs."""
    values, ids = logits.topk(min(k, logits.shape[-1]), dim=-1)
    return ids, values - logits.logsumexp(dim=-1, keepdim=True)

"""Logits become tokens: greedy, or the inverse of the cumulative distribution at one uniform per row.

Legend: B rows, V vocabulary.

One uniform per row and step comes from a counter-based generator of the row's own, so what is drawn depends on nothing
else in the batch. Sums go block by block: a running float32 sum over a whole vocabulary loses the tail.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from trainer.protocol import SamplingParams

__all__ = ["UniformStream", "draw"]

_BLOCK = 256
_FIRST_CANDIDATES = 64
_MASK = (1 << 64) - 1


class UniformStream:
    """The uniforms of one sample: the n-th belongs to its n-th token, keyed by the seed and the sample's index."""

    def __init__(self, seed: int, index: int) -> None:
        key = np.array([seed & _MASK, index], dtype=np.uint64)
        self._generator = np.random.Generator(np.random.Philox(key=key))
        self._values: list[float] = []

    def at(self, step: int) -> float:
        """In [0, 1); the same however often it is asked for."""
        while len(self._values) <= step:
            self._values.append(self._generator.random())
        return self._values[step]


def draw(logits: Tensor, params: Sequence[SamplingParams], uniforms: Sequence[float]) -> tuple[list[int], list[float]]:
    """One token per row, and its logprob under the model's own distribution (temperature 1, nothing filtered).

    Args:
        logits: float32 (B, V).
        params: per row.
        uniforms: per row in [0, 1); greedy rows do not look at theirs.
    """
    peak = logits.amax(dim=-1, keepdim=True)
    masses = logits.softmax(dim=-1)
    # the likeliest token's share is 1 / sum(exp(logits - peak))
    log_total = peak.squeeze(-1) - masses.amax(dim=-1).log()
    tokens = torch.zeros(len(params), dtype=torch.int64, device=logits.device)
    greedy = [i for i, p in enumerate(params) if p.temperature == 0]
    if greedy:
        tokens[greedy] = _likeliest(logits if len(greedy) == len(params) else logits[greedy])
    plain: list[int] = []
    tempered: list[int] = []
    for i, p in enumerate(params):
        if p.temperature == 0:
            continue
        if p.top_k != -1 or p.top_p != 1:
            tokens[i] = _draw_filtered(((logits[i] - peak[i]) / p.temperature).exp_(), p, uniforms[i])
        else:
            (plain if p.temperature == 1 else tempered).append(i)
    if plain:
        tokens[plain] = _invert(masses, plain, uniforms)
    if tempered:
        temperatures = torch.tensor([params[i].temperature for i in tempered], device=logits.device).unsqueeze(-1)
        scaled = ((logits[tempered] - peak[tempered]) / temperatures).exp_()
        own = [uniforms[i] for i in tempered]
        tokens[tempered] = _invert(scaled, list(range(len(own))), own)
    logprobs = logits.gather(1, tokens.unsqueeze(-1)).squeeze(-1) - log_total
    return tokens.tolist(), logprobs.tolist()


def _likeliest(logits: Tensor) -> Tensor:
    """The first of the largest, per row: the block with the largest maximum, then the place in it (argmax over a whole
    vocabulary costs more than everything else here)."""
    whole = logits.shape[1] // _BLOCK * _BLOCK
    if whole == 0 or logits.is_cuda:
        return logits.argmax(dim=-1)
    block = logits[:, :whole].unflatten(1, (-1, _BLOCK)).amax(dim=-1).argmax(dim=-1, keepdim=True)
    inside = block * _BLOCK + torch.arange(_BLOCK, device=logits.device)
    chosen = logits.gather(1, inside)
    best = block.squeeze(-1) * _BLOCK + chosen.argmax(dim=-1)
    if whole == logits.shape[1]:
        return best
    rest, place = logits[:, whole:].max(dim=-1)
    return torch.where(rest > chosen.amax(dim=-1), place + whole, best)


def _blocks(masses: Tensor) -> Tensor:
    """Sums over each block, (B, blocks); the last block may be a short one."""
    whole = masses.shape[1] // _BLOCK * _BLOCK
    blocks = masses[:, :whole].unflatten(1, (-1, _BLOCK)).sum(dim=-1) if whole else masses[:, :0]
    if whole < masses.shape[1]:
        blocks = torch.cat([blocks, masses[:, whole:].sum(dim=-1, keepdim=True)], dim=1)
    return blocks.double()


def _invert(masses: Tensor, rows: list[int], uniforms: Sequence[float]) -> Tensor:
    """The first token at which the running mass exceeds uniform * total, for some rows: first its block, then it."""
    if len(rows) < len(masses):
        masses = masses[rows]
    blocks = _blocks(masses)
    running = blocks.cumsum(dim=-1)
    wanted = torch.tensor([uniforms[i] for i in rows], dtype=torch.float64, device=masses.device).unsqueeze(-1)
    wanted = wanted * running[:, -1:]
    block = torch.searchsorted(running, wanted, right=True).clamp_(max=blocks.shape[1] - 1)
    before = running.gather(1, block) - blocks.gather(1, block)
    inside = block * _BLOCK + torch.arange(_BLOCK, device=masses.device)
    outside = inside >= masses.shape[1]
    chosen = masses.gather(1, inside.clamp_(max=masses.shape[1] - 1)).masked_fill_(outside, 0.0).double()
    found = torch.searchsorted(chosen.cumsum(dim=-1), wanted - before, right=True)
    # rounding may point just beyond the block's mass: take its last token that has any
    last = (chosen > 0).long().mul_(torch.arange(_BLOCK, device=masses.device)).amax(dim=-1, keepdim=True)
    return (block * _BLOCK + torch.minimum(found, last)).squeeze(-1)


def _draw_filtered(masses: Tensor, params: SamplingParams, uniform: float) -> Tensor:
    """A row with top_k or top_p: masses (V,) to a token, by the inverse over the kept tokens, likeliest first."""
    kept, ids = _candidates(masses, params)
    running = kept.double().cumsum(dim=-1)
    found = int(torch.searchsorted(running, uniform * running[-1:], right=True))
    return ids[min(found, len(ids) - 1)]


def _candidates(masses: Tensor, params: SamplingParams) -> tuple[Tensor, Tensor]:
    """The kept tokens' masses, descending, and their ids."""
    size = len(masses)
    count = min(params.top_k, size) if params.top_k != -1 else min(_FIRST_CANDIDATES, size)
    while True:
        kept, ids = masses.topk(count)
        if params.top_p == 1:
            return kept, ids
        running = kept.double().cumsum(dim=-1)
        total = running[-1:] if params.top_k != -1 else masses.sum(dtype=torch.float64).unsqueeze(0)
        enough = int(torch.searchsorted(running, params.top_p * total)) + 1
        if enough <= count or params.top_k != -1 or count == size:
            return kept[:enough], ids[:enough]
        count = min(count * 16, size)

"""A rollout of many turns as few training sequences: steps share one as long as each prompt goes on from the last."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

__all__ = ["merge_rollout"]

Step = tuple[Sequence[int] | npt.NDArray[np.integer], Sequence[int] | npt.NDArray[np.integer]]
"""Prompt tokens and completion tokens of one sampling call."""


def merge_rollout(steps: Iterable[Step]) -> list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]]:
    """Steps of one rollout, in order, to training sequences.

    A step joins the sequence before it when its prompt starts with that sequence's tokens, as the prompts of
    `Renderer.extend` do; else it begins a new one.

    Returns:
        For each sequence, tokens int32 (n,) and weights float32 (n,), unshifted: 1 on sampled tokens, 0 on the rest.

    >>> [(t.tolist(), w.tolist()) for t, w in merge_rollout([([1, 2], [3]), ([1, 2, 3, 4], [5]), ([9], [8])])]
    [([1, 2, 3, 4, 5], [0.0, 0.0, 1.0, 0.0, 1.0]), ([9, 8], [0.0, 1.0])]
    """
    merged: list[tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]] = []
    for prompt_tokens, completion_tokens in steps:
        prompt = np.asarray(prompt_tokens, np.int32)
        completion = np.asarray(completion_tokens, np.int32)
        weights = np.zeros(len(prompt) + len(completion), np.float32)
        weights[len(prompt) :] = 1.0
        if merged:
            tokens, before = merged[-1]
            if len(prompt) >= len(tokens) and np.array_equal(prompt[: len(tokens)], tokens):
                weights[: len(tokens)] = before
                merged.pop()
        merged.append((np.concatenate([prompt, completion]), weights))
    return merged

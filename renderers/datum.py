"""The one next-token shift, the one truncation, the one per-example weight normalisation.

A rendered sequence has n tokens and n weights; what trains has n - 1 positions: the model reads all but the last
token, each position's target is the token after it, and a target keeps the weight it had as a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from .errors import InputError, OptionError
from .types import Chunk, Datum, EncodedTextChunk, ImageChunk, ModelInput

__all__ = ["Reduction", "count_trained", "mean_weights", "shift_block", "to_datum"]

Reduction = Literal["none", "mean"]
"""`none` keeps the weights; `mean` divides them so that each example's weights sum to 1."""

Tokens = npt.NDArray[np.int32]
Weights = npt.NDArray[np.float32]
Offsets = npt.NDArray[np.int64]


def shift_block(tokens: Tokens, weights: Weights, offsets: Offsets) -> tuple[Tokens, Tokens, Weights, Offsets]:
    """Shift many sequences at once.

    Args:
        tokens: int32 (total,), sequences one after another; 0 at image positions.
        weights: float32 (total,), one per token.
        offsets: int64 (num_sequences + 1,), where each sequence starts.

    Returns:
        inputs int32, targets int32, weights float32, all (total - num_nonempty,), and their offsets int64
        (num_sequences + 1,). A sequence of 0 or 1 tokens becomes one of 0 positions.

    >>> inputs, targets, weights, offsets = shift_block(
    ...     np.array([1, 2, 3, 7, 8], np.int32), np.array([0, 1, 1, 0, 1], np.float32), np.array([0, 3, 5])
    ... )
    >>> inputs.tolist(), targets.tolist(), weights.tolist(), offsets.tolist()
    ([1, 2, 7], [2, 3, 8], [1.0, 1.0, 1.0], [0, 2, 3])
    """
    lengths = np.diff(offsets)
    nonempty = lengths > 0
    # The last token of each sequence has no target. The very last one is always such a token, so the same selection,
    # looked at one position later, picks the targets.
    has_target = np.ones(len(tokens), np.bool_)
    has_target[offsets[1:][nonempty] - 1] = False
    is_target = has_target[:-1]
    shifted_offsets = np.zeros_like(offsets)
    np.cumsum(lengths - nonempty, out=shifted_offsets[1:])
    return tokens[has_target], tokens[1:][is_target], weights[1:][is_target], shifted_offsets


def count_trained(weights: Weights, offsets: Offsets) -> npt.NDArray[np.int32]:
    """How many weights of each sequence are not 0: int32 (num_sequences,)."""
    return np.diff(np.searchsorted(np.flatnonzero(weights != 0), offsets)).astype(np.int32)


def mean_weights(weights: Weights, offsets: Offsets) -> tuple[Weights, npt.NDArray[np.int64]]:
    """Weights divided so that each sequence's sum to 1, summed in float64.

    Returns:
        float32 (total,), and int64, which sequences have no mean: their weights are not all 0 but sum to 0 or less.
        Those, and sequences whose weights are all 0, keep their weights.
    """
    lengths = np.diff(offsets)
    nonempty = lengths > 0
    sums = np.zeros(len(lengths), np.float64)
    if nonempty.any():
        sums[nonempty] = np.add.reduceat(weights, offsets[:-1][nonempty], dtype=np.float64)
    without_mean = np.flatnonzero((sums <= 0) & (count_trained(weights, offsets) > 0))
    divisors = np.where(sums > 0, sums, 1.0)
    return (weights / np.repeat(divisors, lengths)).astype(np.float32), without_mean


def to_datum(
    tokens: ModelInput | Sequence[int] | npt.NDArray[Any],
    weights: npt.ArrayLike,
    max_length: int | None = None,
    reduction: Reduction = "none",
) -> Datum:
    """A rendered sequence as a `Datum` with `target_tokens` (int64) and `weights` (float32), one position shorter.

    Args:
        tokens: n tokens, or a `ModelInput` of n positions, images included. Image positions have target 0 and
            must have weight 0; images after the last text are left out, nothing follows that they could predict.
        weights: n weights, one per position, as `build_supervised_example` returns them.
        max_length: cut to this many positions before the shift; an image the cut would hit is left out whole.
        reduction: `mean` divides so that the weights of this example sum to 1.

    Raises:
        InputError: lengths differ, fewer than 2 positions, no target with a nonzero weight, a weight on an image, or
            weights without a mean.
        OptionError: `max_length` or `reduction` has an impossible value.
    """
    if max_length is not None and max_length < 2:
        raise OptionError(f"max_length: expected at least 2; got {max_length}")
    if reduction not in ("none", "mean"):
        raise OptionError(f"reduction: expected none or mean; got {reduction!r}")
    chunks = list(tokens.chunks) if isinstance(tokens, ModelInput) else [EncodedTextChunk(tokens)]
    flat = _flat_tokens(chunks)
    token_weights = np.asarray(weights, np.float32)
    if token_weights.shape != flat.shape:
        raise InputError(
            "weights", "length_mismatch", f"expected {len(flat)} weights, one per position; got {token_weights.shape}"
        )
    _refuse_weighted_images(chunks, token_weights)
    kept = _cut(chunks, len(flat) if max_length is None else max_length)
    while kept and not (isinstance(kept[-1], EncodedTextChunk) and kept[-1].length):
        kept.pop()
    length = sum(chunk.length for chunk in kept)
    if length < 2:
        raise InputError("tokens", "too_short", f"expected at least 2 positions; got {length}")
    offsets = np.array([0, length], np.int64)
    _, targets, target_weights, shifted = shift_block(flat[:length], token_weights[:length], offsets)
    if not target_weights.any():
        raise InputError("weights", "no_trained_tokens", "expected a nonzero weight after the first token; got none")
    if reduction == "mean":
        target_weights, without_mean = mean_weights(target_weights, shifted)
        if len(without_mean):
            total = float(target_weights.sum())
            raise InputError("weights", "no_mean", f"expected weights with a sum above 0; got {total:g}")
    return Datum(
        ModelInput(_cut(kept, length - 1)),
        {"target_tokens": targets.astype(np.int64), "weights": target_weights},
    )


def _flat_tokens(chunks: Sequence[Chunk]) -> Tokens:
    """Tokens of all chunks, 0 at image positions."""
    parts = [c.to_numpy() if isinstance(c, EncodedTextChunk) else np.zeros(c.length, np.int32) for c in chunks]
    return np.concatenate(parts) if parts else np.empty(0, np.int32)


def _refuse_weighted_images(chunks: Sequence[Chunk], weights: Weights) -> None:
    start = 0
    for i, chunk in enumerate(chunks):
        if isinstance(chunk, ImageChunk) and weights[start : start + chunk.length].any():
            raise InputError(
                f"model_input.chunks[{i}]", "weighted_image", "expected weight 0 at image positions; got another"
            )
        start += chunk.length


def _cut(chunks: Sequence[Chunk], length: int) -> list[Chunk]:
    """The first chunks of at most `length` positions; an image is whole or absent."""
    kept: list[Chunk] = []
    left = length
    for chunk in chunks:
        if chunk.length <= left:
            kept.append(chunk)
            left -= chunk.length
            continue
        if isinstance(chunk, EncodedTextChunk) and left:
            kept.append(EncodedTextChunk(chunk.to_numpy()[:left]))
        break
    return kept

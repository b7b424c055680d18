"""Pieces to columns: known ids and encoded text laid one after another, for a whole block at once, with numpy."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from .tokenizer import Tokenizer

__all__ = ["CONSTANT", "CONTINUATION", "START", "Pieces", "assemble", "pool_of"]

START, CONTINUATION = 0, 1
"""Kinds of text: at the start of a stretch, or following other text."""

# A piece's code: weight number (16 bits), message + 1 (15 bits), source number (32 bits).
_MESSAGE_SHIFT, _WEIGHT_SHIFT = 32, 47
_SOURCE, _UNTRAINED = (1 << _MESSAGE_SHIFT) - 1, (1 << _WEIGHT_SHIFT) - 1
CONSTANT = 1 << 31
"""Source numbers from here on are constants."""


@dataclass(slots=True)
class Pieces:
    """The pieces of a block, in order.

    Attributes:
        const_ids: ids of all constants, one constant after another.
        const_starts: where each constant begins in `const_ids`; one entry more than constants.
        texts: texts to encode, by kind.
        codes: per piece, its source number (`CONSTANT + c`, or `2 * i + kind` for text i of a kind) plus the `place`
            of its message and weight: one integer, as a block has hundreds of thousands of pieces.
        weight_of: distinct weights by their number in a place; 0 is weight 0.
        example_ends: per example, the number of pieces up to its end.
    """

    const_ids: list[int] = field(default_factory=list[int])
    const_starts: list[int] = field(default_factory=lambda: [0])
    texts: tuple[list[str], list[str]] = field(default_factory=lambda: ([], []))
    codes: list[int] = field(default_factory=list[int])
    weight_of: dict[float, int] = field(default_factory=lambda: {0.0: 0})
    example_ends: list[int] = field(default_factory=list[int])

    def constant(self, ids: list[int]) -> int:
        """Add a constant; its source number."""
        self.const_ids += ids
        self.const_starts.append(len(self.const_ids))
        return CONSTANT + len(self.const_starts) - 2

    def ids_of(self, source: int) -> list[int]:
        """The ids of a constant."""
        number = source - CONSTANT
        return self.const_ids[self.const_starts[number] : self.const_starts[number + 1]]

    def place(self, message: int, weight: float) -> int:
        """What pieces of this message (-1 for none) and weight add to their source number."""
        if not weight:
            return (message + 1) << _MESSAGE_SHIFT
        number = self.weight_of.setdefault(weight, len(self.weight_of))
        return number << _WEIGHT_SHIFT | (message + 1) << _MESSAGE_SHIFT

    def untrained(self, codes: list[int]) -> list[int]:
        """The same pieces with weight 0."""
        return [code & _UNTRAINED for code in codes]

    def sources(self) -> npt.NDArray[np.int64]:
        """Source numbers of all pieces."""
        return np.asarray(self.codes, np.int64) & _SOURCE


@dataclass(slots=True)
class Assembled:
    """Columns of `RenderedBlock` that follow from the pieces alone; same shapes and dtypes."""

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    run_starts: npt.NDArray[np.int32]
    run_messages: npt.NDArray[np.int16]
    run_offsets: npt.NDArray[np.int64]


def pool_of(
    pieces: Pieces, source: npt.NDArray[np.int64], tokenizer: Tokenizer
) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Encode every text.

    Returns:
        all ids int32, and where each piece starts in them and its length, int64 (num_pieces,).

    Raises:
        ParityError: see `Tokenizer.encode_texts`.
    """
    const_starts = np.asarray(pieces.const_starts, np.int64)
    arrays = [np.asarray(pieces.const_ids, np.int32)]
    base = len(pieces.const_ids)
    # One table for both: texts from 0 up, then the constants.
    size = 2 * max(map(len, pieces.texts))
    starts = np.zeros(size + len(const_starts) - 1, np.int64)
    lengths = np.zeros_like(starts)
    starts[size:] = const_starts[:-1]
    lengths[size:] = np.diff(const_starts)
    for kind, texts in enumerate(pieces.texts):
        if texts:
            ids, offsets = tokenizer.encode_texts(texts, continuation=kind == CONTINUATION)
            starts[kind : 2 * len(texts) : 2] = offsets[:-1] + base
            lengths[kind : 2 * len(texts) : 2] = np.diff(offsets)
            arrays.append(ids)
            base += len(ids)
    entry = np.where(source >= CONSTANT, source - CONSTANT + size, source)
    return np.concatenate(arrays), starts[entry], lengths[entry]


def assemble(pieces: Pieces, tokenizer: Tokenizer) -> Assembled:
    """Encode every text and lay out every example; raises `ParityError` as `Tokenizer.encode_texts` does."""
    codes = np.asarray(pieces.codes, np.int64)
    pool, starts, lengths = pool_of(pieces, codes & _SOURCE, tokenizer)
    messages = ((codes & _UNTRAINED) >> _MESSAGE_SHIFT).astype(np.int16) - np.int16(1)
    weights = np.fromiter(pieces.weight_of, np.float32, len(pieces.weight_of))[codes >> _WEIGHT_SHIFT]
    ends = np.cumsum(lengths)
    token_starts = ends - lengths
    total = int(ends[-1]) if len(ends) else 0
    # Where in the pool each token of the result lies: a ramp per piece.
    gather = np.arange(total, dtype=np.int64) + np.repeat(starts - token_starts, lengths)
    piece_ends = np.asarray(pieces.example_ends, np.int64)
    offsets = np.zeros(len(piece_ends) + 1, np.int64)
    if len(piece_ends):
        offsets[1:] = np.concatenate(([0], ends))[piece_ends]

    # Runs: pieces of one message within one example, empty pieces left out.
    example = np.repeat(np.arange(len(piece_ends)), np.diff(np.concatenate(([0], piece_ends))))
    filled = lengths > 0
    messages, example, token_starts = messages[filled], example[filled], token_starts[filled]
    new = np.ones(len(messages), bool)
    new[1:] = (messages[1:] != messages[:-1]) | (example[1:] != example[:-1])
    run_offsets = np.zeros(len(piece_ends) + 1, np.int64)
    np.cumsum(np.bincount(example[new], minlength=len(piece_ends)), out=run_offsets[1:])
    return Assembled(
        tokens=pool[gather],
        weights=np.repeat(weights, lengths),
        offsets=offsets,
        run_starts=(token_starts[new] - offsets[example[new]]).astype(np.int32),
        run_messages=messages[new],
        run_offsets=run_offsets,
    )

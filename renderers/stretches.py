"""Tokens as what they say: control tokens by id, and the text between them. Equal text has equal stretches, however it
was cut into tokens."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from .tokenizer import Tokenizer

__all__ = ["Stretches", "Transition", "starts_with", "stretches", "transitions"]


class Stretches(NamedTuple):
    """What a sequence says.

    Attributes:
        items: a control token's id, or text; never two texts in a row.
        ends: for each item, the number of tokens up to its end.
    """

    items: list[int | str]
    ends: list[int]


def stretches(tokenizer: Tokenizer, tokens: Sequence[int]) -> Stretches:
    """Decode a whole sequence, stretch by stretch."""
    ids = [int(token) for token in tokens]
    control = tokenizer.control_ids
    items: list[int | str] = []
    ends: list[int] = []
    start = 0
    for position in [*(i for i, token in enumerate(ids) if token in control), len(ids)]:
        text = tokenizer.decode(ids[start:position]) if start < position else ""
        if text:
            items.append(text)
            ends.append(position)
        if position < len(ids):
            items.append(ids[position])
            ends.append(position + 1)
        start = position + 1
    return Stretches(items, ends)


def starts_with(whole: Sequence[int | str], start: Sequence[int | str]) -> bool:
    """Whether `whole` begins by saying `start`, whose last text may go on in `whole`."""
    if not start:
        return True
    if len(whole) < len(start) or list(whole[: len(start) - 1]) != list(start[:-1]):
        return False
    first, last = whole[len(start) - 1], start[-1]
    return first.startswith(last) if isinstance(first, str) and isinstance(last, str) else first == last


Transition = tuple[int, bool, int]
"""A control token, whether text follows it, and the next control token."""


def transitions(tokenizer: Tokenizer, tokens: Sequence[int]) -> set[Transition]:
    """Neighbouring control tokens, and whether there is text between them: the shape of a conversation."""
    ids = np.asarray(tokens, np.int64)
    places = np.flatnonzero(np.isin(ids, np.fromiter(tokenizer.control_ids, np.int64, len(tokenizer.control_ids))))
    steps = np.diff(places) > 1
    pairs = zip(ids[places[:-1]].tolist(), steps.tolist(), ids[places[1:]].tolist(), strict=True)
    return set(pairs)

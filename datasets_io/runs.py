"""Tokens that are characters only together: cut through UTF-8, or through what a reader sees as one character."""

from __future__ import annotations

import codecs
import unicodedata
from collections.abc import Callable, Sequence
from typing import NamedTuple

__all__ = ["whole_runs"]

_JOINER = "\u200d"


class _Run(NamedTuple):
    start: int
    stop: int
    text: str | None  # None: not whole UTF-8 by itself, or a control token


def whole_runs(tokens: Sequence[bytes | None], may_join: Callable[[int, int], bool]) -> list[tuple[int, int]]:
    """Runs of two or more tokens, as (start, stop).

    Tokens are joined until their bytes are whole UTF-8, and then with what a reader cannot tell from it: a combining
    mark, the rest of an emoji sequence, the second half of a flag. Bytes that never become whole are in no run.

    Args:
        tokens: bytes of each token; None for one that no character goes across.
        may_join: whether whole text of two neighbouring tokens may be in one run.
    """
    merged: list[_Run] = []
    for run in _utf8_runs(tokens):
        last = merged[-1] if merged else None
        if last and last.text and run.text and may_join(run.start - 1, run.start) and _goes_on(last.text, run.text):
            merged[-1] = _Run(last.start, run.stop, last.text + run.text)
        else:
            merged.append(run)
    return [(run.start, run.stop) for run in merged if run.stop - run.start > 1]


def _utf8_runs(tokens: Sequence[bytes | None]) -> list[_Run]:
    """All tokens in runs, each the shortest that is whole UTF-8; tokens that are part of none are alone."""
    decoder = codecs.getincrementaldecoder("utf-8")("strict")
    runs: list[_Run] = []
    start, text = 0, ""

    def give_up(stop: int) -> None:
        runs.extend(_Run(i, i + 1, None) for i in range(start, stop))
        decoder.reset()

    for i, data in enumerate(tokens):
        if data is None:
            give_up(i)
            runs.append(_Run(i, i + 1, None))
            start, text = i + 1, ""
            continue
        try:
            text += decoder.decode(data)
        except UnicodeDecodeError:
            give_up(i)
            start = i
            try:  # it may begin a character of its own
                text = decoder.decode(data)
            except UnicodeDecodeError:
                give_up(i + 1)
                start, text = i + 1, ""
                continue
        if not decoder.getstate()[0]:
            runs.append(_Run(start, i + 1, text))
            start, text = i + 1, ""
    give_up(len(tokens))
    return runs


def _goes_on(left: str, right: str) -> bool:
    """Whether `right` continues the last visible character of `left`. The cases that chat data hold, not all of
    Unicode's segmentation rules."""
    first, last = right[0], left[-1]
    if last.isspace() or (not last.isprintable() and last != _JOINER):
        return False
    if _JOINER in (first, last) or unicodedata.category(first).startswith("M"):
        return True
    if "\U0001f3fb" <= first <= "\U0001f3ff":  # a skin tone
        return True
    return _is_flag_letter(first) and _flag_letters(left) % 2 == 1


def _is_flag_letter(character: str) -> bool:
    return "\U0001f1e6" <= character <= "\U0001f1ff"


def _flag_letters(text: str) -> int:
    """How many flag letters a text ends with."""
    count = 0
    while count < len(text) and _is_flag_letter(text[-1 - count]):
        count += 1
    return count

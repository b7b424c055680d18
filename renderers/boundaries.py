"""Where text may be cut: whether encoding two parts one after the other is encoding them whole."""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING

from .white_space import WHITE_SPACE

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

__all__ = ["Boundaries"]

_SHORT_LEFT = 64


class Boundaries:
    """Judges cuts for one tokenizer, and remembers."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._clean_pairs: set[tuple[str, str, bool]] = set()
        self._joins: dict[tuple[str, int, str, int, bool], bool] = {}

    def are_clean(self, left: str, right: str, *, swallow: bool = False) -> bool:
        """Whether whole-text encoding of `left + right` is the encoding of `left`, then of `right`.

        Where the pre-tokenizer cuts between the two, nothing merges across. Whether it cuts before a letter or digit
        (or one space and then one) depends on that character's class alone, so those are decided once per class by
        probes. Anything else (other white space above all) is encoded both ways.

        Args:
            swallow: the control token before `left` takes white space with it.
        """
        start = right[:2] if right[0] == " " and len(right) > 1 else right[0]
        near = left if len(left) <= _SHORT_LEFT or swallow else self._end_of(left)
        if (near, start, swallow) in self._clean_pairs:
            return True
        letter = start[-1]
        if not letter.isalnum() or not near or len(near) > _SHORT_LEFT:
            return self._same_ids(near, right, swallow)
        key = (near, len(start), unicodedata.category(letter), ord(letter) >> 7, swallow)
        known = self._joins.get(key)
        if known is None:
            probes = [start + more for more in ("", "a", " a", "\n", "1", "\u0301", letter * 2)]
            known = self._joins[key] = all(self._cuts_between(near, probe) for probe in probes) and all(
                self._same_ids_each(near, probes, swallow)
            )
        if known:
            self._clean_pairs.add((near, start, swallow))
        return known or self._same_ids(near, right, swallow)

    def _end_of(self, text: str) -> str:
        """The last words of a long text: where words begin at the space before them, none before has a say in the end.

        The whole text where it has no such place near its end.
        """
        if not self._words_begin_at_spaces:
            return text
        space = text.find(" ", len(text) - _SHORT_LEFT, len(text) - 1)
        while space > 0 and not (text[space - 1].isalnum() and text[space + 1].isalpha()):
            space = text.find(" ", space + 1, len(text) - 1)
        return text[space:] if space > 0 else text

    @cached_property
    def _words_begin_at_spaces(self) -> bool:
        return all(
            self._cuts_between(left, right) for left in ("a", "bc", "1", "B2") for right in (" a", " Bc", " d e")
        )

    def _cuts_between(self, left: str, right: str) -> bool:
        pre_tokenizer = self._tokenizer.backend.pre_tokenizer
        if pre_tokenizer is None or not left.isascii():
            return False
        return any(start == len(left) for _, (start, _) in pre_tokenizer.pre_tokenize_str(left + right))

    def _same_ids(self, left: str, right: str, swallow: bool) -> bool:
        return all(self._same_ids_each(left, (right,), swallow))

    def _same_ids_each(self, left: str, rights: Sequence[str], swallow: bool) -> list[bool]:
        """For each right part, whether whole-text encoding of `left + right` is that of `left`, then of the part."""
        wholes = [left + right for right in rights]
        if swallow:
            wholes, left = [whole.lstrip(WHITE_SPACE) for whole in wholes], left.lstrip(WHITE_SPACE)
        if not left:
            return [
                w == r or self._tokenizer.encode_text(w) == self._tokenizer.encode_text(r)
                for w, r in zip(wholes, rights, strict=True)
            ]
        start, *together = self._tokenizer.encode_rows([left, *wholes], continuation=False)
        following = self._tokenizer.encode_rows(rights, continuation=True)
        return [whole == start + right for whole, right in zip(together, following, strict=True)]

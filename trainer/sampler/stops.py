"""When a sample is complete: a stop token, a stop string (wherever its tokens break), or the length."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

__all__ = ["Decode", "StopRule"]

Decode = Callable[[Sequence[int]], str]

# Even if every token were a single byte of a four-byte character, this many more tokens cover a match and the clumsy
# first characters of a text whose decoding starts in the middle.
_BYTES_PER_CHARACTER, _SLACK = 4, 16


@dataclass(frozen=True)
class StopRule:
    """Which tokens or strings complete a sample.

    Attributes:
        tokens: ids that stop.
        strings: texts that stop as soon as the decoded output contains one.
        decode: ids to text; needed for strings alone.
    """

    tokens: frozenset[int]
    strings: tuple[str, ...] = ()
    decode: Decode | None = None

    def matches(self, tokens: Sequence[int]) -> bool:
        """Whether the sample ends with its last token; every earlier token has been asked about."""
        if tokens[-1] in self.tokens:
            return True
        if not self.strings:
            return False
        assert self.decode is not None
        longest = max(len(string) for string in self.strings)
        text = self.decode(tokens[-(longest * _BYTES_PER_CHARACTER + _SLACK) :])
        return any(string in text for string in self.strings)

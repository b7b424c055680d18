"""Text as it arrives: white space that the template put there taken off again, and marks that are plain text found."""

from __future__ import annotations

import re
from collections.abc import Iterable

__all__ = ["MarkScanner", "Trimmer"]


class Trimmer:
    """Takes off what a template writes around a text, without waiting longer than it must.

    Args:
        prefix: text that the template puts in front; as much of it as is there is dropped.
        lstrip, rstrip: characters that the template strips from the left end, and from the right.
        suffixes: texts that the template may put behind; `finish` says which one.
    """

    def __init__(self, prefix: str = "", lstrip: str = "", rstrip: str = "", suffixes: Iterable[str] = ()) -> None:
        self._prefix = prefix
        self._lstrip, self._rstrip = lstrip, rstrip
        self._hold = rstrip + "".join(suffixes)
        self._held: list[str] = []
        self.started = False

    def feed(self, text: str) -> str:
        """What can be shown now."""
        if not self.started:
            text = self._lead(text)
        if not text:
            return ""
        kept = text.rstrip(self._hold) if self._hold else text
        if not kept:
            self._held.append(text)
            return ""
        shown = "".join(self._held) + kept
        self._held = [text[len(kept) :]] if len(kept) < len(text) else []
        return shown

    def finish(self, suffix: str = "") -> str:
        """The rest, when the template's `suffix` and then a mark, or the end, came next."""
        held = "".join(self._held).removesuffix(suffix)
        self._held = []
        return held.rstrip(self._rstrip) if self._rstrip else held

    def _lead(self, text: str) -> str:
        n = 0
        while n < len(text) and n < len(self._prefix) and text[n] == self._prefix[n]:
            n += 1
        self._prefix = self._prefix[n:] if n == len(text) else ""
        text = text[n:]
        if self._lstrip:
            text = text.lstrip(self._lstrip)
        self.started = bool(text)
        return text


class MarkScanner:
    """Finds marks that are ordinary text in this vocabulary; holds back only what may be the start of one."""

    def __init__(self, marks: Iterable[str]) -> None:
        self._marks = sorted(set(marks), key=len, reverse=True)
        self._pattern = re.compile("|".join(map(re.escape, self._marks))) if self._marks else None
        self._held = ""

    def feed(self, text: str) -> list[tuple[str, bool]]:
        """Parts in order: (text, whether it is a mark)."""
        if self._pattern is None:
            return [(text, False)] if text else []
        text = self._held + text
        parts: list[tuple[str, bool]] = []
        position = 0
        for match in self._pattern.finditer(text):
            if match.start() > position:
                parts.append((text[position : match.start()], False))
            parts.append((match.group(), True))
            position = match.end()
        rest = text[position:]
        held = self._partial(rest)
        self._held = rest[len(rest) - held :]
        if held < len(rest):
            parts.append((rest[: len(rest) - held], False))
        return parts

    def flush(self) -> str:
        held, self._held = self._held, ""
        return held

    def _partial(self, text: str) -> int:
        for size in range(min(len(text), len(self._marks[0]) - 1), 0, -1):
            end = text[-size:]
            if any(mark.startswith(end) for mark in self._marks):
                return size
        return 0

"""Turns inside rendered text, and the text between them, message by message."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from .errors import RefusedError
from .jinja_template import Prefixes, TracedText
from .plan import Plan
from .tokenizer import Tokenizer
from .traced import TEMPLATE

__all__ = ["Spans", "Turn", "begins_alike", "message_starts"]


@dataclass(slots=True)
class Turn:
    """A trained turn as text: `text[:start]` is its prompt, `text[start:stop]` is trained.

    `origin` is there only where some message contains the text of a control token.
    """

    index: int
    text: str
    origin: str | None
    start: int
    stop: int


def begins_alike(text: str, origin: str | None, other: str, other_origin: str | None, stop: int) -> bool:
    """Whether two texts begin with the same `stop` characters, the template's in one where they are in the other.

    A control token typed into a message looks like one that the template wrote, and becomes other tokens.
    """
    if not text.startswith(other[:stop]):
        return False
    if origin is None or other_origin is None:
        return True
    ours, theirs = origin[:stop], other_origin[:stop]
    return ours == theirs or all((a == TEMPLATE) == (b == TEMPLATE) for a, b in zip(ours, theirs, strict=True))


class Spans:
    """Writes the untrained text of one conversation, each stretch under its message.

    A message ends where the rendering of the messages up to it ends, as long as that is how the text begins.

    Args:
        prefixes: renders the first messages of the conversation.
        suffix: what the generation prompt adds, empty where unknown.
        write: `write(plan, text, origin, start, stop)` puts a part of a text into the plan.
    """

    def __init__(
        self, prefixes: Prefixes, suffix: str, write: Callable[[Plan, str, str | None, int, int], None]
    ) -> None:
        self._prefixes = prefixes
        self._suffix = suffix
        self._write = write
        self._next = 0
        # Where the messages of the last example begin in its text.
        self._starts: dict[int, int] = {}
        self._last: Turn | None = None

    def write(self, plan: Plan, turn: Turn, *, fresh: bool) -> None:
        """Write the text up to the turn's start: all of it when a new example begins, else what follows the last."""
        last = self._last
        if fresh or last is None:
            self._next, position = self._reused(plan, turn)
            self._starts = {m: p for m, p in self._starts.items() if m <= self._next}
        else:
            position = last.stop
            if turn.text.startswith(last.text) and len(last.text) <= turn.start:
                # What the template writes after the last turn's stop token still belongs to that turn.
                self._write(plan, turn.text, turn.origin, position, len(last.text))
                position = len(last.text)
        self._last = turn
        for message in range(self._next, turn.index):
            plan.begin_message(message)
            self._starts[message] = position
            end = self._end_of(message, turn)
            if end is not None and position <= end <= turn.start:
                self._write(plan, turn.text, turn.origin, position, end)
                position = end
        plan.begin_message(turn.index)
        self._write(plan, turn.text, turn.origin, position, turn.start)
        self._next = turn.index + 1

    def _reused(self, plan: Plan, turn: Turn) -> tuple[int, int]:
        """Begin with what the last example shares with this turn's prompt: next message, and position in the text."""
        last = self._last
        for message in sorted(self._starts, reverse=True) if last is not None else ():
            position = self._starts[message]
            alike = position and last and begins_alike(turn.text, turn.origin, last.text, last.origin, position)
            if alike and plan.reuse(message):
                return message, position
        return 0, 0

    def _end_of(self, message: int, turn: Turn) -> int | None:
        if message == turn.index - 1 and self._suffix and turn.text.endswith(self._suffix, 0, turn.start):
            return turn.start - len(self._suffix)
        try:
            text = self._prefixes.render(message + 1)
        except RefusedError:
            return None
        return len(text) if turn.text.startswith(text) else None


def message_starts(traced: TracedText, tokenizer: Tokenizer, stops: frozenset[str]) -> list[tuple[int, int]]:
    """Where each message begins, with its index: after the stop token (and what follows it) of the one before."""
    found: list[tuple[int, int]] = []
    previous, seen = 0, TEMPLATE
    for i, mark in enumerate(traced.origin):
        if mark in (TEMPLATE, seen):
            continue
        between = list(tokenizer.control_pattern.finditer(traced.text, previous, i))
        begin = previous
        if between and between[0].group() in stops:
            begin = between[1].start() if len(between) > 1 else i
        elif between:
            begin = between[0].start()
        found.append((begin, ord(mark) - 1))
        seen = mark
        previous = traced.origin.rfind(mark) + 1
    return found

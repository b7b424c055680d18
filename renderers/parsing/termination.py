"""How a sampled turn ended, and what that says about it."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

__all__ = ["ParseFailureKind", "ParseTermination", "classify_parse_failure"]


class ParseTermination(StrEnum):
    """How a sampled turn ended.

    Every value is a non-empty string and so is truthy: ask `is_clean`, never `if termination`.

    stop_sequence: by the stop token (or stop text) that the family writes after a turn.
    eos: by another end token of the model.
    length: by nothing: the tokens just stop, as after `max_tokens`.
    malformed: its structure is broken: a control token out of place, reasoning that was never closed, or tokens after
        the end.
    """

    STOP_SEQUENCE = "stop_sequence"
    EOS = "eos"
    LENGTH = "length"
    MALFORMED = "malformed"

    @property
    def is_clean(self) -> bool:
        """The turn ended itself, in good order."""
        return self in (ParseTermination.STOP_SEQUENCE, ParseTermination.EOS)

    @property
    def is_stop_sequence(self) -> bool:
        return self is ParseTermination.STOP_SEQUENCE


class ParseFailureKind(StrEnum):
    """structural: the turn as a whole is broken or cut off. content: the turn is whole, a tool call in it is not."""

    STRUCTURAL = "structural"
    CONTENT = "content"


def classify_parse_failure(
    message: Mapping[str, Any], termination: ParseTermination
) -> tuple[ParseFailureKind, str] | None:
    """What is wrong with a parsed turn; None when nothing is.

    >>> classify_parse_failure({"role": "assistant", "content": "Hi"}, ParseTermination.LENGTH)
    (<ParseFailureKind.STRUCTURAL: 'structural'>, 'expected a stop token; the tokens end without one')
    """
    if termination is ParseTermination.LENGTH:
        return ParseFailureKind.STRUCTURAL, "expected a stop token; the tokens end without one"
    if not termination.is_clean:
        return (
            ParseFailureKind.STRUCTURAL,
            "expected one whole turn; got a control token out of place, unclosed reasoning or tokens after the end",
        )
    unparsed = message.get("unparsed_tool_calls")
    if unparsed:
        return ParseFailureKind.CONTENT, f"{len(unparsed)} tool call(s) unparsed; the first: {unparsed[0]['reason']}"
    return None

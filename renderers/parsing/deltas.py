"""What a streaming parser reports as tokens arrive."""

from __future__ import annotations

from dataclasses import dataclass

from ..messages import Message, ToolCall
from .termination import ParseTermination

__all__ = [
    "Delta",
    "ReasoningDelta",
    "ResponseEnd",
    "TextDelta",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
]


@dataclass(frozen=True, slots=True)
class TextDelta:
    """More visible text; all of them joined are the message's content."""

    text: str


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More reasoning; all of them joined are the message's `reasoning_content`."""

    text: str


@dataclass(frozen=True, slots=True)
class ToolCallStart:
    """A tool call begins. `index` counts the calls of this turn as they appear, failed ones too."""

    index: int
    name: str


@dataclass(frozen=True, slots=True)
class ToolCallArguments:
    """More of a call's arguments; of a call that ends well, all of them joined are a JSON object."""

    index: int
    text: str


@dataclass(frozen=True, slots=True)
class ToolCallEnd:
    """A call is complete (`call`), or is none after all (`call` None; `raw` and `reason` say what came instead).

    A call that fails before its name is known has this delta alone.
    """

    index: int
    call: ToolCall | None
    raw: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class ResponseEnd:
    """The whole turn; the last delta of `parse_response_streaming`."""

    message: Message
    termination: ParseTermination


Delta = TextDelta | ReasoningDelta | ToolCallStart | ToolCallArguments | ToolCallEnd | ResponseEnd

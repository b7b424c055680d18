"""A sampled completion becomes a message again: at once or token by token, one implementation for both."""

from __future__ import annotations

from .deltas import (
    Delta,
    ReasoningDelta,
    ResponseEnd,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from .formats import CallReader, CallSyntax, ResponseFormat
from .openai_messages import from_openai_message, to_openai_message
from .stream import Endings, StreamParser, stream_response
from .termination import ParseFailureKind, ParseTermination, classify_parse_failure

__all__ = [
    "CallReader",
    "CallSyntax",
    "Delta",
    "Endings",
    "ParseFailureKind",
    "ParseTermination",
    "ReasoningDelta",
    "ResponseEnd",
    "ResponseFormat",
    "StreamParser",
    "TextDelta",
    "ToolCallArguments",
    "ToolCallEnd",
    "ToolCallStart",
    "classify_parse_failure",
    "from_openai_message",
    "stream_response",
    "to_openai_message",
]

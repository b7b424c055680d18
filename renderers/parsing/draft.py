"""The message under construction, and the deltas that nobody has taken yet."""

from __future__ import annotations

import json
from typing import Any, cast

from ..messages import Message, ToolCall
from .deltas import Delta, ReasoningDelta, TextDelta, ToolCallArguments, ToolCallEnd, ToolCallStart

__all__ = ["Draft"]


class Draft:
    """Collects what a turn says.

    Attributes:
        problem: what is structurally wrong with the turn, the first thing found; empty when nothing is.
        null_content: a message of calls alone has no content, not an empty one.
        keeps_empty_reasoning: the message says that its reasoning is empty, instead of saying nothing about it.
    """

    def __init__(self) -> None:
        self.problem = ""
        self.null_content = False
        self.keeps_empty_reasoning = False
        self._deltas: list[Delta] = []
        self._content: list[str] = []
        self._reasoning: list[str] = []
        self._calls: list[ToolCall] = []
        self._unparsed: list[dict[str, str]] = []
        self._num_calls = 0

    def forget(self) -> None:
        """Drop all that was said so far: it stood in the prompt."""
        self._deltas, self._content, self._reasoning = [], [], []
        self._calls, self._unparsed, self._num_calls, self.problem = [], [], 0, ""

    def take(self) -> list[Delta]:
        """The deltas since the last call."""
        deltas, self._deltas = self._deltas, []
        return deltas

    def text(self, text: str) -> None:
        if text:
            self._content.append(text)
            self._deltas.append(TextDelta(text))

    def reasoning(self, text: str) -> None:
        if text:
            self._reasoning.append(text)
            self._deltas.append(ReasoningDelta(text))

    def says(self, words: tuple[str, ...]) -> bool:
        """Whether the content has one of these words in it."""
        content = "".join(self._content)
        return any(word in content for word in words)

    @property
    def has_content(self) -> bool:
        return bool(self._content)

    @property
    def has_reasoning(self) -> bool:
        return bool(self._reasoning)

    def broken(self, problem: str) -> None:
        self.problem = self.problem or problem

    # -- tool calls

    def start_call(self, name: str) -> int:
        index, self._num_calls = self._num_calls, self._num_calls + 1
        self._deltas.append(ToolCallStart(index, name))
        return index

    def arguments(self, index: int, text: str) -> None:
        if text:
            self._deltas.append(ToolCallArguments(index, text))

    def end_call(self, index: int | None, name: str, arguments: dict[str, Any], call_id: str | None = None) -> None:
        """A good call; one that was not announced is announced now, with its arguments."""
        if index is None:
            index = self.start_call(name)
            self.arguments(index, json.dumps(arguments, ensure_ascii=False))
        call: ToolCall = {"type": "function", "function": {"name": name, "arguments": arguments}}
        if call_id is not None:
            call["id"] = call_id
        self._calls.append(call)
        self._deltas.append(ToolCallEnd(index, call))

    def fail_call(self, index: int | None, raw: str, reason: str) -> None:
        if index is None:
            index, self._num_calls = self._num_calls, self._num_calls + 1
        self._unparsed.append({"raw": raw, "reason": reason})
        self._deltas.append(ToolCallEnd(index, None, raw, reason))

    # -- the end

    def message(self) -> Message:
        """The assistant's message; fields with nothing in them are left out, except the content."""
        message: dict[str, Any] = {"role": "assistant", "content": "".join(self._content)}
        if self.null_content and self._calls and not self._content:
            del message["content"]
        if self._reasoning or self.keeps_empty_reasoning:
            message["reasoning_content"] = "".join(self._reasoning)
        if self._calls:
            message["tool_calls"] = list(self._calls)
        if self._unparsed:
            message["unparsed_tool_calls"] = [dict(call) for call in self._unparsed]
        return cast("Message", message)

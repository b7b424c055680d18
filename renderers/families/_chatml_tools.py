"""What ChatML families share: the declaration of tools as JSON, calls as JSON, results grouped in a user turn."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from ..family import MessageText, Pieces, View, join_pieces
from ..messages import Message, ToolSpec

__all__ = ["calls_of", "is_tool_response", "json_tool_block", "split_thought", "tool_result"]

_OPENING = (
    "# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>"
)
_CLOSING = (
    "\n</tools>\n\nFor each function call, return a json object with function name and arguments within "
    '<tool_call></tool_call> XML tags:\n<tool_call>\n{"name": <function-name>, "arguments": <args-json-object>}\n'
    "</tool_call>"
)


def json_tool_block(tools: Sequence[ToolSpec]) -> Pieces:
    """The declaration of tools in a system message, as Qwen2.5 and Qwen3 write it."""
    return (_OPENING, "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in tools), _CLOSING)


def calls_of(message: Message) -> Sequence[Any]:
    """The message's calls, each the object that has `name` and `arguments`."""
    return [call.get("function") or call for call in message.get("tool_calls") or ()]


def is_tool_response(content: str) -> bool:
    """Whether a user message carries a tool's result, so that it asks nothing new."""
    return content.startswith("<tool_response>") and content.endswith("</tool_response>")


def split_thought(content: str) -> tuple[str, str]:
    """Reasoning typed into the content, which templates take out again by its tags, and what is left."""
    if "</think>" not in content:
        return "", content
    first, *_, last = content.split("</think>")
    return first.rstrip("\n").split("<think>")[-1].lstrip("\n"), last.lstrip("\n")


def tool_result(view: View, index: int, content: Pieces, *, opens_first: bool = True) -> MessageText:
    """A tool's result: neighbouring results share one user turn.

    `opens_first`: whether a result that is the first message of all gets a user header.
    """
    previous = view.messages[index - 1]["role"] if index else ("" if opens_first else "tool")
    last = index == view.count - 1 or view.messages[index + 1]["role"] != "tool"
    return MessageText(
        ("\n" if previous == "tool" else "<|im_start|>user\n",),
        join_pieces(("<tool_response>\n",), content, ("\n</tool_response>" + ("<|im_end|>" if last else ""),)),
        ("\n" if last else "",),
    )

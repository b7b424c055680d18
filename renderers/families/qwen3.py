"""Qwen3: ChatML with reasoning, and Qwen3-Instruct-2507, the same without.

The hybrid template shows a turn's reasoning only while the turn is part of the answer to the last user message, and
frames the last turn in a think block even when there is no reasoning. Earlier turns lose both, so conversations of
several user messages rarely share one sequence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Option, Pieces, View, join_pieces
from ..messages import Message, ToolSpec
from ..parsing.formats import CHATML, QWEN3
from ._chatml_tools import calls_of, is_tool_response, json_tool_block, split_thought, tool_result

__all__ = ["RENDERERS", "Qwen3", "Qwen3Instruct"]

_USER, _ASSISTANT, _NEW_LINE = ("<|im_start|>user\n",), ("<|im_start|>assistant\n",), ("\n",)
_NO_THOUGHT = "<think>\n\n</think>\n\n"


class Qwen3Instruct(Family):
    """Qwen3-Instruct-2507: no reasoning anywhere; every conversation is one growing sequence."""

    name: ClassVar[str] = "qwen3_instruct"  # type: ignore[misc]
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326": {},
    }
    stop = "<|im_end|>"
    response_format = CHATML

    @property
    def has_extension_property(self) -> bool:
        return True

    def opening(self, view: View) -> Pieces:
        if view.tools and view.messages[0]["role"] != "system":
            return join_pieces(("<|im_start|>system\n",), json_tool_block(view.tools), ("<|im_end|>\n",))
        return ("",)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role == "assistant":
            content, calls = _content(message), calls_of(message)
            return MessageText(
                ("<|im_start|>assistant\n",), _closed(("", content, "<|im_end|>"), calls, content), ("\n",)
            )
        return self.other(view, index)

    def other(self, view: View, index: int) -> MessageText:
        """A message of any role but the assistant's."""
        message = view.messages[index]
        role = message["role"]
        if role == "tool":
            return tool_result(view, index, ("", _content(message), ""))
        if role == "system" and index == 0:
            if not isinstance(message.get("content"), str):
                raise RefusedError("messages[0].content", "template_refused", "expected a string; got none")
            if view.tools:
                body = join_pieces(("", _content(message), "\n\n"), json_tool_block(view.tools), ("<|im_end|>",))
                return MessageText(("<|im_start|>system\n",), body, ("\n",))
        if role in ("user", "system"):
            return MessageText((f"<|im_start|>{role}\n",), ("", _content(message), "<|im_end|>"), ("\n",))
        return NOT_SHOWN  # the template passes over other roles

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("<|im_start|>assistant\n",)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


class Qwen3(Qwen3Instruct):
    """Qwen3 with switchable thinking.

    Options:
        thinking: False prompts with an empty think block, so that the model answers at once.
    """

    name: ClassVar[str] = "qwen3"  # type: ignore[misc]
    response_format = QWEN3
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"qwen3_disable_thinking": {"thinking": False}}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8": {},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {"thinking": Option(bool, True, variable="enable_thinking")}

    @property
    def has_extension_property(self) -> bool:
        return False

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        last_query = count - 1
        for i in range(count - 1, -1, -1):
            message = messages[i]
            content = message.get("content")
            if message["role"] == "user" and isinstance(content, str) and not is_tool_response(content):
                last_query = i
                break
        return View(messages, tools, count, live_from=last_query + 1, facts={"last_query": last_query})

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        if message["role"] == "user" and len(message) == 2:
            return MessageText(_USER, ("", _content(message), "<|im_end|>"), _NEW_LINE)
        if message["role"] != "assistant":
            return self.other(view, index)
        reasoning, content = _reasoning_and_content(message)
        pieces: Pieces = ("", content, "<|im_end|>")
        if index > view.facts["last_query"] and (index == view.count - 1 or reasoning):
            pieces = ("<think>\n", reasoning.strip("\n"), "\n</think>\n\n", content.lstrip("\n"), "<|im_end|>")
        return MessageText(_ASSISTANT, _closed(pieces, calls_of(message), content), _NEW_LINE)

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("<|im_start|>assistant\n" if self.options["thinking"] else "<|im_start|>assistant\n" + _NO_THOUGHT,)

    def turn(self, view: View, index: int) -> MessageText:
        text = super().turn(view, index)
        if self.options["thinking"]:
            return text
        opening, reasoning, closing, *rest = text.body
        if opening + reasoning + closing != _NO_THOUGHT:
            raise RefusedError(
                f"messages[{index}]",
                "prompt_disagrees",
                "expected a turn without reasoning, as thinking is off and its prompt closes the think block; "
                f"got {reasoning[:40]!r}",
            )
        return text._replace(body=("", *rest))


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


def _reasoning_and_content(message: Message) -> tuple[str, str]:
    content, reasoning = _content(message), message.get("reasoning_content")
    if isinstance(reasoning, str):
        return reasoning, content
    return split_thought(content)


def _closed(pieces: Pieces, calls: Sequence[Any], content: str) -> Pieces:
    """`pieces`, which end with the stop token, with tool calls before it."""
    if not calls:
        return pieces
    parts: list[Pieces] = [(*pieces[:-1], "")]
    for i, function in enumerate(calls):
        arguments = function["arguments"]
        text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
        opening = "\n<tool_call>\n" if i or content else "<tool_call>\n"
        parts.append((opening + '{"name": "', function["name"], '", "arguments": ', text, "}\n</tool_call>"))
    return join_pieces(*parts, (pieces[-1],))


RENDERERS = (Qwen3, Qwen3Instruct)

"""Llama 3 instruct models: header tokens and trimmed content; from 3.1 on, tools and a date in the system block."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import Family, MessageText, Option, Pieces, View, join_pieces
from ..parsing.formats import LLAMA3, TRIMMED

__all__ = ["RENDERERS", "Llama3", "Llama30"]

_TOOLS_TO_USER = (
    "Given the following functions, please respond with a JSON for a function call "
    "with its proper arguments that best answers the given prompt.\n\n"
)
_TOOLS_TO_SYSTEM = (
    "You have access to the following functions. To call a function, please respond with JSON for a function call."
)
_TOOL_FORMAT = (
    'Respond in the format {"name": function name, "parameters": dictionary of argument name and its value}.'
    "Do not use variables.\n\n"
)


class Llama3(Family):
    """Llama 3.1 chat.

    Options:
        current_date: the date in the system block, as the template prints it.
        tools_in_user_message: False declares tools in the system block instead of the first user message.
    """

    name: ClassVar[str] = "llama3"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"llama3.1": {}}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "e10ca381b1ccc5cf9db52e371f3b6651576caee0a630b452e2816b2d404d4b65": {},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "current_date": Option(str, "26 Jul 2024", variable="date_string"),
        "tools_in_user_message": Option(bool, True),
    }
    stop = "<|eot_id|>"
    response_format = LLAMA3

    @property
    def has_extension_property(self) -> bool:
        return True

    def opening(self, view: View) -> Pieces:
        bos = self.tokenizer.bos_token or ""
        system = "<|start_header_id|>system<|end_header_id|>\n\n"
        if view.tools is not None:
            system += "Environment: ipython\n"
        system += f"Cutting Knowledge Date: December 2023\nToday Date: {self.options['current_date']}\n\n"
        if view.tools is not None and not self.options["tools_in_user_message"]:
            pieces = join_pieces((bos + system + _TOOLS_TO_SYSTEM + _TOOL_FORMAT,), *_declared(view.tools))
        else:
            pieces = (bos + system,)
        if view.messages and view.messages[0]["role"] == "system":
            return pieces
        if view.tools is not None and self.options["tools_in_user_message"] and not view.count:
            raise RefusedError("messages", "template_refused", "expected a first user message to put the tools in")
        return join_pieces(pieces, ("<|eot_id|>",))

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        has_system = view.messages[0]["role"] == "system"
        if index == 0 and has_system:
            # The system block's header and date stand in the opening, in one text with this content.
            return MessageText(("",), ("", self._trimmed(view, index), "<|eot_id|>"))
        if view.tools is not None and self.options["tools_in_user_message"] and index == int(has_system):
            intro = _TOOLS_TO_USER + _TOOL_FORMAT
            body = join_pieces((intro,), *_declared(view.tools), ("", self._trimmed(view, index), "<|eot_id|>"))
            return MessageText((_header("user"),), body)
        if "tool_calls" in message:
            return MessageText((_header("assistant"),), self._call(view, index))
        if role == "tool":
            content = message.get("content")
            # The template takes any text for a sequence, and writes it as JSON.
            return MessageText((_header("ipython"),), ("", json.dumps(content, ensure_ascii=False), "<|eot_id|>"))
        return MessageText((_header(role),), ("", self._trimmed(view, index), "<|eot_id|>"))

    def _call(self, view: View, index: int) -> Pieces:
        calls = view.messages[index].get("tool_calls") or []
        if len(calls) != 1:
            raise RefusedError(
                f"messages[{index}].tool_calls",
                "template_refused",
                f"the chat template refuses it: one tool call at once; got {len(calls)}",
            )
        function = calls[0]["function"]
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        return ('{"name": "', function["name"], '", "parameters": ', arguments, "}<|eot_id|>")

    def _trimmed(self, view: View, index: int) -> str:
        content = view.messages[index].get("content")
        return content.strip() if isinstance(content, str) else ""

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return (_header("assistant"),)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


def _header(role: str) -> str:
    return f"<|start_header_id|>{role}<|end_header_id|>\n\n"


def _declared(tools: Any) -> list[Pieces]:
    return [("", json.dumps(tool, ensure_ascii=False, indent=4), "\n\n") for tool in tools]


class Llama30(Family):
    """Llama 3.0 chat: every message the same way; the template knows no tools, no calls and no date."""

    name: ClassVar[str] = "llama3.0"  # type: ignore[misc]
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122": {},
    }
    stop = "<|eot_id|>"
    response_format = TRIMMED

    @property
    def has_extension_property(self) -> bool:
        return True

    def opening(self, view: View) -> Pieces:  # noqa: ARG002
        return (self.tokenizer.bos_token or "",)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        content = message.get("content")
        text = content.strip() if isinstance(content, str) else ""
        return MessageText((_header(message["role"]),), ("", text, self.stop))

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return (_header("assistant"),)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


RENDERERS = (Llama3, Llama30)

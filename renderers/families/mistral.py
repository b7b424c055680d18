"""Mistral-Nemo-Instruct: `[INST]` around users, tools before the last user message, system text in the last message.

The template shows the system text only where a user message ends the conversation. The rendering of an answered
conversation has none, so with a system message every turn is written unlike its prompt, and refused for training.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

from ..errors import RefusedError
from ..family import Family, MessageText, Pieces, View, join_pieces
from ..messages import Message, ToolSpec
from ..parsing.formats import MISTRAL

__all__ = ["RENDERERS", "Mistral"]

_USER, _USER_END = "[INST]", "[/INST]"
_EOS = "</s>"
_ID_LENGTH = 9


class Mistral(Family):
    """Mistral Nemo chat; the template reads no option. Ids of tool calls must be 9 characters long."""

    name: ClassVar[str] = "mistral_nemo"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"mistral": {}}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "e4676cb56dffea7782fd3e2b577cfaf1e123537e6ef49b3ec7caa6c095c62272": {},
    }
    stop = _EOS
    response_format = MISTRAL

    @property
    def has_extension_property(self) -> bool:
        return False  # true without system text and tools only

    def control_tokens(self) -> Sequence[str]:
        return (_USER, _USER_END, _EOS)

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        has_system = bool(count) and messages[0]["role"] == "system"
        _check_order(messages, int(has_system), count)
        system = messages[0].get("content") if has_system else None
        facts: dict[str, Any] = {"has_system": has_system, "system": system}
        live_from = count - 1
        if tools is not None:
            users = [i for i in range(int(has_system), count) if messages[i]["role"] == "user"]
            facts["shows_tools"] = _equal_to_last(messages, users)
            live_from = 0
        return View(messages, tools, count, live_from, facts=facts)

    def opening(self, view: View) -> Pieces:  # noqa: ARG002
        return (self.tokenizer.bos_token or "",)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if index == 0 and role == "system":
            return MessageText(("",), ("",))  # shown in the last user message, if anywhere
        if role == "user":
            return self._user(view, index)
        if message.get("tool_calls") is not None:
            return MessageText(("",), _calls(message, index))
        if role == "assistant":
            return MessageText(("",), ("", _text(message, index), _EOS))
        if role == "tool":
            return _result(message, index)
        raise RefusedError(
            f"messages[{index}].role",
            "template_refused",
            f"expected user, assistant or tool after an optional first system message; got {role!r}",
        )

    def _user(self, view: View, index: int) -> MessageText:
        body: Pieces = ("", _text(view.messages[index], index), _USER_END)
        system = view.facts["system"]
        if index == view.count - 1 and view.facts["has_system"] and "content" in view.messages[0]:
            if not isinstance(system, str):
                raise RefusedError("messages[0].content", "template_refused", "expected a string; got none")
            body = join_pieces(("", system, "\n\n"), body)
        header: Pieces = (_USER,)
        if view.tools is not None and index in view.facts["shows_tools"]:
            header = join_pieces(_declared(view.tools), header)
        return MessageText(header, body)

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("",)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)


def _check_order(messages: Sequence[Message], start: int, count: int) -> None:
    """Users and answers must alternate, tool calls and results set aside."""
    expected_user = True
    for i in range(start, count):
        message = messages[i]
        role = message["role"]
        if role == "tool" or message.get("tool_calls") is not None:
            continue
        if (role == "user") is not expected_user:
            raise RefusedError(
                f"messages[{i}].role",
                "template_refused",
                "the chat template refuses it: after the optional system message, roles must alternate "
                f"user/assistant; expected {'user' if expected_user else 'assistant'}, got {role!r}",
            )
        expected_user = not expected_user


def _equal_to_last(messages: Sequence[Message], users: Sequence[int]) -> set[int]:
    """The last of these messages, and earlier ones of the same content: the template compares values."""
    if not users:
        return set()
    last = _visible(messages[users[-1]])
    return {i for i in users if _visible(messages[i]) == last}


def _visible(message: Message) -> dict[str, Any]:
    return {k: v for k, v in message.items() if v is not None and k not in ("weight", "trainable")}


def _text(message: Message, index: int) -> str:
    content = message.get("content")
    if not isinstance(content, str):
        raise RefusedError(f"messages[{index}].content", "template_refused", "expected a string; got none")
    return content


def _declared(tools: Sequence[ToolSpec]) -> Pieces:
    declared: list[Pieces] = []
    for i, tool in enumerate(tools):
        if not isinstance(tool.get("function"), Mapping):
            raise RefusedError(f"tools[{i}].function", "template_refused", "expected an object; got none")
        # Strings are put between quotes as they are, not as JSON.
        fields = [
            f'"{key}": "{value}"' if isinstance(value, str) else f'"{key}": {json.dumps(value, ensure_ascii=False)}'
            for key, value in cast("dict[str, Any]", tool["function"]).items()
            if key != "return"
        ]
        closing = "}}]" if i == len(tools) - 1 else "}}, "
        declared.append(('{"type": "function", "function": {', ", ".join(fields), closing))
    return join_pieces(("[AVAILABLE_TOOLS][",), *declared, ("[/AVAILABLE_TOOLS]",))


def _calls(message: Message, index: int) -> Pieces:
    calls = message.get("tool_calls") or ()
    pieces: list[Pieces] = [("[TOOL_CALLS][",)]
    for k, call in enumerate(calls):
        call_id = _checked_id(call.get("id"), f"messages[{index}].tool_calls[{k}].id")
        function = json.dumps(call["function"], ensure_ascii=False)
        closing = '"}]' + _EOS if k == len(calls) - 1 else '"}, '
        pieces.append(("", function[:-1], ', "id": "', call_id, closing))
    return join_pieces(*pieces)


def _result(message: Message, index: int) -> MessageText:
    call_id = _checked_id(message.get("tool_call_id"), f"messages[{index}].tool_call_id")
    content = message.get("content")
    text = content if isinstance(content, str) else ""
    return MessageText(('[TOOL_RESULTS]{"content": ',), ("", text, ', "call_id": "', call_id, '"}[/TOOL_RESULTS]'))


def _checked_id(value: Any, place: str) -> str:
    if not isinstance(value, str) or len(value) != _ID_LENGTH:
        raise RefusedError(
            place,
            "template_refused",
            f"the chat template refuses it: expected an alphanumeric id of {_ID_LENGTH} characters; got {value!r}",
        )
    return value


RENDERERS = (Mistral,)

"""Kimi-K2-Instruct: role tokens around names, tool calls in a section of their own, no reasoning."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..family import Family, MessageText, Pieces, View, join_pieces
from ..messages import Message
from ..parsing.formats import KIMI_K2

__all__ = ["RENDERERS", "KimiK2"]

_MIDDLE, _END = "<|im_middle|>", "<|im_end|>"
_HEADERS = {
    "system": "<|im_system|>system" + _MIDDLE,
    "user": "<|im_user|>user" + _MIDDLE,
    "assistant": "<|im_assistant|>assistant" + _MIDDLE,
    "tool": "<|im_system|>tool" + _MIDDLE,
}
_DEFAULT_SYSTEM = _HEADERS["system"] + "You are a helpful assistant" + _END


class KimiK2(Family):
    """Kimi K2 chat; the template reads no option. (K2-Thinking and K2.5 have templates of their own.)"""

    name: ClassVar[str] = "kimi_k2"  # type: ignore[misc]
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "9fcc72b7c248a72020c81f70bb652f3094d18a750c93ca35dfcb3cf5fe23ff53": {},
    }
    stop = _END
    response_format = KIMI_K2

    @property
    def has_extension_property(self) -> bool:
        return True

    def control_tokens(self) -> Sequence[str]:
        return ("<|im_system|>", "<|im_user|>", "<|im_assistant|>", _MIDDLE, _END)

    def opening(self, view: View) -> Pieces:
        default = _DEFAULT_SYSTEM if view.count and view.messages[0]["role"] != "system" else ""
        if not view.tools:
            return (default,)
        declared = json.dumps(view.tools, ensure_ascii=False)
        return ("<|im_system|>tool_declare" + _MIDDLE, declared, _END + default)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        header = (_HEADERS.get(role, ""),)
        content = message.get("content")
        text = content if isinstance(content, str) else ""
        if role == "assistant" and message.get("tool_calls"):
            return MessageText(header, join_pieces(("", text, ""), *_calls(message), (_END,)))
        if role == "tool":
            # The two characters \n, not a line break: the template has them outside of an expression.
            returned = ("## Return of ", message.get("tool_call_id") or "", "\\n")
            return MessageText(join_pieces(header, returned), ("", text, _END))
        return MessageText(header, ("", text, _END))

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return (_HEADERS["assistant"],)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


def _calls(message: Message) -> list[Pieces]:
    parts: list[Pieces] = [("<|tool_calls_section_begin|>",)]
    for k, call in enumerate(message.get("tool_calls") or ()):
        function = call["function"]
        parts.append(
            (
                "<|tool_call_begin|>functions.",
                f"{function['name']}:{k}",
                "<|tool_call_argument_begin|>",
                json.dumps(function["arguments"], ensure_ascii=False),
                "<|tool_call_end|>",
            )
        )
    return [*parts, ("<|tool_calls_section_end|>",)]


RENDERERS = (KimiK2,)

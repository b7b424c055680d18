"""Nemotron 3 (Nano, Super): ChatML with tools declared and called in XML, reasoning kept in or cut from history.

The template opens the think block in the prompt, but writes a turn without reasoning as `<think></think>`: with
thinking on, such a turn cannot be trained under the prompt that sampling shows, and is refused; `thinking=False`
is the mode for them, and refuses turns with reasoning.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import Family, MessageText, Option, Pieces, View, join_pieces
from ..messages import Message, ToolSpec
from ..parsing.formats import NEMOTRON3
from ._chatml_tools import calls_of
from ._xml_calls import CALL_INSTRUCTION, as_text, xml_call

__all__ = ["RENDERERS", "Nemotron3"]

_ASSISTANT = "<|im_start|>assistant\n"
_NO_THOUGHT = "<think></think>"
_PARAMETER_KEYS = ("name", "type", "description", "enum")
_PARAMETERS_KEYS = ("type", "properties", "required")
_FUNCTION_KEYS = ("type", "name", "description", "parameters")


class Nemotron3(Family):
    """Nemotron 3.

    Options:
        thinking: False prompts with an empty think block, so that the model answers at once.
        keep_thinking: show the reasoning of turns before the last user message too.
    """

    name: ClassVar[str] = "nemotron3"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "nemotron3_disable_thinking": {"thinking": False},
        "nemotron3_preserve_thinking": {"keep_thinking": True},
    }
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "ab7813c3abdd9cb655905a410728b26c7884eca45ddfab8d9f931553485a7862": {},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "thinking": Option(bool, True, variable="enable_thinking"),
        "keep_thinking": Option(bool, False, help="the template's truncate_history_thinking, the other way round"),
    }
    stop = "<|im_end|>"
    response_format = NEMOTRON3

    @property
    def has_extension_property(self) -> bool:
        return self.options["keep_thinking"]

    def control_tokens(self) -> Sequence[str]:
        return ("<|im_start|>", "<|im_end|>", "<think>", "</think>")

    def template_variables(self) -> dict[str, Any]:
        return {
            "enable_thinking": self.options["thinking"],
            "truncate_history_thinking": not self.options["keep_thinking"],
        }

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        last_user = next((i for i in range(count - 1, -1, -1) if messages[i]["role"] == "user"), -1)
        live_from = count if self.options["keep_thinking"] else last_user + 1
        return View(messages, tools, count, live_from=live_from, facts={"last_user": last_user})

    def opening(self, view: View) -> Pieces:
        has_system = view.messages[0]["role"] == "system"
        if has_system and view.messages[0].get("content") is not None:
            return ("<|im_start|>system\n",)
        if not view.tools:
            return ("" if has_system else "<|im_start|>system\n<|im_end|>\n",)
        return join_pieces(("<|im_start|>system\n",), _declared(view.tools), ("<|im_end|>\n",))

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role == "assistant":
            body = self._said(view, index)
            # What the prompt gives, with thinking off or on, is header: never trained.
            for given in (_NO_THOUGHT, "<think>\n"):
                if body[0].startswith(given):
                    return MessageText((_ASSISTANT + given,), (body[0].removeprefix(given), *body[1:]), ("\n",))
            return MessageText((_ASSISTANT,), body, ("\n",))
        content = message.get("content")
        shown = content if isinstance(content, str) else ""
        if role == "tool":
            return _result(view, index, shown)
        if role == "system" and index == 0:
            if content is None:
                return MessageText(("",), ("",))
            # The header stands in the opening.
            if not view.tools:
                return MessageText(("",), ("", shown, "<|im_end|>"), ("\n",))
            body = join_pieces(("", shown, "\n\n" if shown else ""), _declared(view.tools), ("<|im_end|>",))
            return MessageText(("",), body, ("\n",))
        if content is None and role == "developer":
            raise RefusedError(f"messages[{index}].content", "template_refused", "expected a string; got none")
        return MessageText((f"<|im_start|>{role}\n",), ("", shown, "<|im_end|>"), ("\n",))

    def _said(self, view: View, index: int) -> Pieces:
        """What an assistant says after its header, up to the stop token."""
        message = view.messages[index]
        thought = self._thought(view, index)
        calls = calls_of(message)
        if not calls:
            return join_pieces(thought, ("<|im_end|>",))
        parts: list[Pieces] = [thought, ("\n",) if any(thought) else (_NO_THOUGHT,)]
        for call in calls:
            parts += (xml_call(call, index), ("\n",))
        return join_pieces(*parts, ("<|im_end|>",))

    def _thought(self, view: View, index: int) -> Pieces:
        """Think block and content, trimmed as one text."""
        message = view.messages[index]
        reasoning, content = message.get("reasoning_content"), message.get("content")
        content = content if isinstance(content, str) else ""
        cut = not self.options["keep_thinking"] and index < view.facts["last_user"]
        if isinstance(reasoning, str) and reasoning.strip():
            if not cut:
                # The whole is trimmed, so white space before the content stays, unless there is nothing else.
                answer = content.rstrip()
                closing: Pieces = ("\n</think>\n", answer, "") if answer else ("\n</think>",)
                return ("<think>\n", reasoning, *closing)
            content = f"<think>\n{reasoning}\n</think>\n{content}"
        elif "<think>" not in content and "</think>" not in content:
            return (_NO_THOUGHT, content.strip() if cut and message.get("tool_calls") else content.rstrip(), "")
        if not cut:
            return _typed(content.strip())
        if message.get("tool_calls"):
            kept = content.split("</think>")[-1] if "</think>" in content else content.split("<think>")[0]
            return (_NO_THOUGHT, kept.strip(), "")
        if "<think>" in content and "</think>" in content:
            return (_NO_THOUGHT, content.split("</think>")[-1].rstrip(), "")
        return _typed(content.strip())

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return (_ASSISTANT + ("<think>\n" if self.options["thinking"] else _NO_THOUGHT),)

    def turn(self, view: View, index: int) -> MessageText:
        body = self._said(view, index)
        given = "<think>\n" if self.options["thinking"] else _NO_THOUGHT
        if not body[0].startswith(given):
            # The same text may be cut into pieces elsewhere when the content brings its own tags.
            text = "".join(body)
            if not text.startswith(given):
                expected = "with" if self.options["thinking"] else "without"
                raise RefusedError(
                    f"messages[{index}]",
                    "prompt_disagrees",
                    f"expected a turn {expected} reasoning, as thinking={self.options['thinking']} and its prompt says "
                    f"{given!r}; got {text[:40]!r}",
                )
            return MessageText(("",), _without_beginning(body, len(given)), ("\n",))
        return MessageText(("",), (body[0].removeprefix(given), *body[1:]), ("\n",))


def _typed(content: str) -> Pieces:
    """Content that brings its own think block, which is then the template's; other tags in it are text."""
    if content.startswith("<think>") and "</think>" in content:
        thought, answer = content.removeprefix("<think>").split("</think>", 1)
        return ("<think>", thought, "</think>", answer, "")
    return ("", content, "")


def _without_beginning(pieces: Pieces, length: int) -> Pieces:
    left = list(pieces)
    for i, piece in enumerate(left):
        left[i] = piece[length:]
        length -= len(piece) - len(left[i])
    return tuple(left)


def _result(view: View, index: int, content: str) -> MessageText:
    # A result that no message comes before gets no header: the template looks for one that is not a result.
    start = index - (index > 0 and view.messages[0]["role"] == "system")
    opens = start > 0 and view.messages[index - 1]["role"] != "tool"
    last = index == view.count - 1 or view.messages[index + 1]["role"] != "tool"
    return MessageText(
        ("<|im_start|>user\n" if opens else "",),
        ("<tool_response>\n", content, "\n</tool_response>\n" + ("<|im_end|>" if last else "")),
        ("\n" if last else "",),
    )


def _declared(tools: Sequence[ToolSpec]) -> Pieces:
    text = "".join(_function(tool.get("function", tool)) for tool in tools)
    opening = "# Tools\n\nYou have access to the following functions:\n\n<tools>"
    return (opening, text, "\n</tools>" + CALL_INSTRUCTION)


def _function(function: Mapping[str, Any]) -> str:
    lines = [f"\n<function>\n<name>{function.get('name', '')}</name>"]
    if "description" in function:
        lines.append(f"\n<description>{str(function['description']).strip()}</description>")
    lines.append("\n<parameters>")
    parameters = function.get("parameters")
    if isinstance(parameters, Mapping):
        properties = parameters.get("properties")
        if isinstance(properties, Mapping):
            lines += (_parameter(name, fields) for name, fields in properties.items())
        lines.append(_extra(parameters, _PARAMETERS_KEYS))
        if "required" in parameters:
            lines.append(f"\n<required>{json.dumps(parameters['required'], ensure_ascii=False)}</required>")
    return "".join((*lines, "\n</parameters>", _extra(function, _FUNCTION_KEYS), "\n</function>"))


def _parameter(name: str, fields: Any) -> str:
    text = f"\n<parameter>\n<name>{name}</name>"
    if isinstance(fields, Mapping):
        if "type" in fields:
            text += f"\n<type>{fields['type']}</type>"
        if "description" in fields:
            text += f"\n<description>{str(fields['description']).strip()}</description>"
        if "enum" in fields:
            text += f"\n<enum>{json.dumps(fields['enum'], ensure_ascii=False)}</enum>"
        text += _extra(fields, _PARAMETER_KEYS)
    return text + "\n</parameter>"


def _extra(fields: Mapping[str, Any], handled: Sequence[str]) -> str:
    return "".join(f"\n<{key}>{as_text(value)}</{key}>" for key, value in fields.items() if key not in handled)


RENDERERS = (Nemotron3,)

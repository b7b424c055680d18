"""ChatML: Qwen2.5 with its default system text, and plain ChatML for any tokenizer with `<|im_start|>`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Option, Pieces, View, join_pieces
from ..messages import Message
from ..parsing.formats import CHATML, PLAIN
from ._chatml_tools import calls_of, json_tool_block, tool_result

__all__ = ["RENDERERS", "ChatML", "Qwen25"]

_QWEN = "You are Qwen, created by Alibaba Cloud. You are a helpful assistant."


class ChatML(Family):
    """Every message as `<|im_start|>role`, its content as it is, `<|im_end|>`: no reasoning, no tools.

    The template is `{% for message in messages %}{{ '<|im_start|>' + message.role + '\\n' + message.content +
    '<|im_end|>\\n' }}{% endfor %}` and the assistant's header as generation prompt. Tools and calls are refused.
    """

    name: ClassVar[str] = "chatml"  # type: ignore[misc]
    stop = "<|im_end|>"
    response_format = PLAIN
    opens_with_assistant = True

    @property
    def has_extension_property(self) -> bool:
        return True

    def control_tokens(self) -> tuple[str, ...]:
        return ("<|im_start|>", "<|im_end|>")

    def opening(self, view: View) -> Pieces:
        if view.tools:
            raise RefusedError("tools", "no_tools", f"renderer {self.name} has no form for tools; expected none")
        return ("",)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        if message.get("tool_calls"):
            place = f"messages[{index}].tool_calls"
            raise RefusedError(place, "no_tools", f"renderer {self.name} has no form for tool calls; expected none")
        return plain_message(message["role"], content_of(message, index))

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("<|im_start|>assistant\n",)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


class Qwen25(ChatML):
    """Qwen2.5 instruct models.

    Options:
        default_system: the system text when the conversation brings none. Only the default is the model's own
            template; another text is a system message that need not be written into every conversation.
    """

    name: ClassVar[str] = "qwen2.5"  # type: ignore[misc]
    response_format = CHATML
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"qwen2_5": {}}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "cd8e9439f0570856fd70470bf8889ebd8b5d1107207f67a5efb46e342330527f": {"default_system": _QWEN},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {"default_system": Option(str, _QWEN, variable=None)}
    opens_with_assistant = False

    def opening(self, view: View) -> Pieces:
        if view.messages[0]["role"] == "system":
            return ("",)
        system: str = self.options["default_system"]
        if view.tools:
            block = json_tool_block(view.tools)
            return join_pieces((f"<|im_start|>system\n{system}\n\n",), block, ("<|im_end|>\n",))
        return (f"<|im_start|>system\n{system}<|im_end|>\n",)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role == "system" and index == 0 and view.tools:
            content = content_of(message, index)
            body = join_pieces(("", content, "\n\n"), json_tool_block(view.tools), ("<|im_end|>",))
            return MessageText(("<|im_start|>system\n",), body, ("\n",))
        if role == "assistant" and message.get("tool_calls"):
            return _calls(message)
        if role in ("user", "system", "assistant"):
            return plain_message(role, content_of(message, index))
        if role == "tool":
            return tool_result(view, index, ("", content_of(message, index), ""))
        return NOT_SHOWN


def content_of(message: Message, index: int) -> str:
    """The content, which the template adds to text: anything but a string fails there, and is refused here."""
    content = message.get("content")
    if not isinstance(content, str):
        got = "none" if content is None else type(content).__name__
        raise RefusedError(f"messages[{index}].content", "template_refused", f"expected a string; got {got}")
    return content


def plain_message(role: str, content: str) -> MessageText:
    return MessageText((f"<|im_start|>{role}\n",), ("", content, "<|im_end|>"), ("\n",))


def _calls(message: Message) -> MessageText:
    # The generation prompt ends with a line break; so the header has it, and the first call does not repeat it.
    content = message.get("content")
    pieces: list[Pieces] = [("", content, "") if isinstance(content, str) and content else ("",)]
    for i, function in enumerate(calls_of(message)):
        opening = "\n<tool_call>\n" if i or content else "<tool_call>\n"
        # Arguments given as JSON text are quoted once more: so does the template.
        arguments = json.dumps(function["arguments"], ensure_ascii=False)
        pieces.append((opening + '{"name": "', function["name"], '", "arguments": ', arguments, "}\n</tool_call>"))
    return MessageText(("<|im_start|>assistant\n",), join_pieces(*pieces, ("<|im_end|>",)), ("\n",))


RENDERERS = (ChatML, Qwen25)

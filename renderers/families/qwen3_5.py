"""Qwen3.5 (and Qwen3.6 with the same template): ChatML with trimmed content, open think block, calls as XML, images.

Reasoning is shown while a turn answers the last question; a user message that carries a tool's result asks nothing.
A conversation must have a question, and a system message may only come first.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import Family, MessageText, Option, Pieces, View, join_pieces
from ..images import ImageReader, ImageText
from ..messages import Message, ToolSpec
from ..parsing.formats import QWEN3_5
from ..tokenizer import Tokenizer
from ._chatml_tools import calls_of, is_tool_response, split_thought, tool_result
from ._xml_calls import CALL_INSTRUCTION, xml_call

__all__ = ["RENDERERS", "Qwen35"]

_ASSISTANT = "<|im_start|>assistant\n"
_THINK = _ASSISTANT + "<think>\n"
_THOUGHT = "\n</think>\n\n"
_PAD = "<|image_pad|>"
_IMAGE = f"<|vision_start|>{_PAD}<|vision_end|>"


class Qwen35(Family):
    """Qwen3.5.

    Options:
        thinking: False prompts with an empty think block, so that the model answers at once.
        add_vision_id: number the pictures (`Picture 1: `).
        image_folder: where image paths may point to; without it only data URIs are read.
        min_pixels, max_pixels: the image processor's limits on an image's area.
    """

    name: ClassVar[str] = "qwen3_5"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "qwen3.5": {},
        "qwen3_5_disable_thinking": {"thinking": False},
    }
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "a4aee8afcf2e0711942cf848899be66016f8d14a889ff9ede07bca099c28f715": {},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "thinking": Option(bool, True, variable="enable_thinking"),
        "add_vision_id": Option(bool, False),
        "image_folder": Option(str, "", variable=None),
        "min_pixels": Option(int, 65536, variable=None),
        "max_pixels": Option(int, 16777216, variable=None),
    }
    stop = "<|im_end|>"
    response_format = QWEN3_5
    takes_parts = True
    takes_images = True

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        # A position is a 2 x 2 square of patches of 16 x 16 pixels.
        self._images = ImageReader(
            self.options["image_folder"],
            factor=32,
            min_pixels=self.options["min_pixels"],
            max_pixels=self.options["max_pixels"],
        )

    @property
    def has_extension_property(self) -> bool:
        return False

    def control_tokens(self) -> Sequence[str]:
        return ("<|im_start|>", "<|im_end|>")

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        for i in range(count - 1, -1, -1):
            if messages[i]["role"] == "user" and not is_tool_response(_plain(messages[i]).strip()):
                return View(messages, tools, count, live_from=i + 1, facts={"last_query": i})
        raise RefusedError("messages", "template_refused", "the chat template refuses them: no user message asks")

    def opening(self, view: View) -> Pieces:
        if not view.tools:
            return ("",)
        declared = "".join("\n" + json.dumps(tool, ensure_ascii=False) for tool in view.tools)
        closing = "\n</tools>" + CALL_INSTRUCTION
        if view.messages[0]["role"] != "system":
            closing += "<|im_end|>\n"
        opening = "<|im_start|>system\n# Tools\n\nYou have access to the following functions:\n\n<tools>"
        return (opening, declared, closing)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role == "assistant":
            body = self._said(view, index)
            if index > view.facts["last_query"]:
                if not self.options["thinking"] and not body[1] and body[2].startswith(_THOUGHT):
                    # What the prompt gives is header: never trained.
                    return MessageText((_THINK + _THOUGHT,), (body[2].removeprefix(_THOUGHT), *body[3:]), ("\n",))
                return MessageText((_THINK,), body, ("\n",))
            return MessageText((_ASSISTANT,), body, ("\n",))
        content = self._content(view, index)
        if role == "user":
            return MessageText(("<|im_start|>user\n",), join_pieces(content, ("<|im_end|>",)), ("\n",))
        if role == "tool":
            return tool_result(view, index, content, opens_first=False)
        if role == "system" and index == 0:
            if view.tools:
                shown = join_pieces(("\n\n",), content) if _plain(message).strip() else ("",)
                return MessageText(("",), join_pieces(shown, ("<|im_end|>",)), ("\n",))
            return MessageText(("<|im_start|>system\n",), join_pieces(content, ("<|im_end|>",)), ("\n",))
        expected = "the system message first" if role == "system" else "user, assistant or tool"
        detail = f"the chat template refuses it: expected {expected}; got {role}"
        raise RefusedError(f"messages[{index}].role", "template_refused", detail)

    def _said(self, view: View, index: int) -> Pieces:
        """What an assistant says after its header, up to the stop token."""
        message = view.messages[index]
        reasoning = message.get("reasoning_content")
        if type(message.get("content")) is list and _has_images(message):
            content, text = self._content(view, index), _IMAGE
            if not isinstance(reasoning, str):
                if "</think>" in _plain(message):
                    detail = "expected reasoning_content, as reasoning typed beside pictures is not taken apart"
                    raise RefusedError(f"messages[{index}].content", "typed_reasoning", detail)
                reasoning = ""
        else:
            text = _plain(message).strip()
            if not isinstance(reasoning, str):
                reasoning, text = split_thought(text)
            content = ("", text, "")
        if index > view.facts["last_query"]:
            content = join_pieces(("", reasoning.strip(), _THOUGHT), content)
        calls = calls_of(message)
        if not calls:
            return join_pieces(content, ("<|im_end|>",))
        parts: list[Pieces] = [content]
        for i, call in enumerate(calls):
            parts += (("\n" if i else "\n\n" if text.strip() else "",), xml_call(call, index))
        return join_pieces(*parts, ("<|im_end|>",))

    def _content(self, view: View, index: int) -> Pieces:
        """Trimmed content, with its pictures where they stand."""
        message = view.messages[index]
        content = message.get("content")
        if type(content) is not list or not _has_images(message):
            return ("", _plain(message).strip(), "")
        if message["role"] == "system":
            detail = "the chat template refuses it: a system message cannot contain images"
            raise RefusedError(f"messages[{index}].content", "template_refused", detail)
        number = sum(_has_images(earlier) for earlier in view.messages[:index])
        pieces = [""]
        for k, part in enumerate(content):
            if part["type"] == "image":
                number += 1
                pieces[-1] += f"Picture {number}: " if self.options["add_vision_id"] else ""
                pieces[-1] += "<|vision_start|>"
                place = f"messages[{index}].content[{k}]"
                chunk = self._images.read(part["image"], place, keep_bytes=self.keeps_image_bytes)
                pieces += (ImageText(_PAD, chunk), "<|vision_end|>")
            else:
                pieces += (part["text"], "")  # type: ignore[typeddict-item]
        return _trimmed(pieces)

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return (_THINK if self.options["thinking"] else _THINK + _THOUGHT,)

    def turn(self, view: View, index: int) -> MessageText:
        body = self._said(view, index)
        if self.options["thinking"]:
            return MessageText(("",), body, ("\n",))
        if body[1]:
            raise RefusedError(
                f"messages[{index}]",
                "prompt_disagrees",
                "expected a turn without reasoning, as thinking is off and its prompt closes the think block; "
                f"got {body[1][:40]!r}",
            )
        return MessageText(("",), (body[2].removeprefix(_THOUGHT), *body[3:]), ("\n",))


def _plain(message: Message) -> str:
    """The content's text; pictures stand in it as their placeholder."""
    content = message.get("content")
    if isinstance(content, list):
        return "".join(_IMAGE if part["type"] == "image" else part["text"] for part in content)  # type: ignore[typeddict-item]
    return content or ""


def _has_images(message: Message) -> int:
    """How many pictures a message has."""
    content = message.get("content")
    return sum(part["type"] == "image" for part in content) if isinstance(content, list) else 0


def _trimmed(pieces: list[str]) -> Pieces:
    """White space off both ends; template pieces here are empty or end in a picture."""
    first, last = 0, len(pieces) - 1
    while first < last and not pieces[first]:
        pieces[first + 1] = pieces[first + 1].lstrip()
        if pieces[first + 1]:
            break
        first += 2
    while last > first and not pieces[last]:
        pieces[last - 1] = pieces[last - 1].rstrip()
        if pieces[last - 1]:
            break
        last -= 2
    return tuple(pieces[first : last + 1])


RENDERERS = (Qwen35,)

"""GLM-4.5 and GLM-4.6: role tokens without an end token, calls as XML, reasoning only after the last user message.

A turn has no end token of its own: the model stops by saying the token that begins the next message, `<|user|>` or,
after tool calls, `<|observation|>`. The template writes that token only with the next message. So that stopping is
trained, it belongs to the turn here: the one that really follows in the conversation, or at the end of an example
the one that would. Prompts are not touched by it: the next prompt has the token at the same place. A turn that is
followed by something that no model says (a system message, a second assistant message) ends its example.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Option, Pieces, View, join_pieces
from ..messages import Message, ToolSpec
from ..parsing.formats import GLM
from ._chatml_tools import calls_of, split_thought

__all__ = ["GLM4", "RENDERERS"]

_TOOLS_OPENING = (
    "<|system|>\n# Tools\n\nYou may call one or more functions to assist with the user query.\n\n"
    "You are provided with function signatures within <tools></tools> XML tags:\n<tools>\n"
)
_TOOLS_CLOSING = (
    "</tools>\n\nFor each function call, output the function name and arguments within the following XML format:\n"
    "<tool_call>{function-name}\n<arg_key>{arg-key-1}</arg_key>\n<arg_value>{arg-value-1}</arg_value>\n"
    "<arg_key>{arg-key-2}</arg_key>\n<arg_value>{arg-value-2}</arg_value>\n...\n</tool_call>"
)
_NO_THOUGHT = "\n<think></think>"


class GLM4(Family):
    """GLM-4.5 and GLM-4.6.

    Options:
        thinking: False marks every user message with `/nothink` and prompts with an empty think block.
        version: `4.6` takes empty arguments for none, which `4.5` refuses.
    """

    name: ClassVar[str] = "glm4_5"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "glm4.5": {},
        "glm4_5_disable_thinking": {"thinking": False},
        "glm4.6": {"version": "4.6"},
        "glm4_6": {"version": "4.6"},
        "glm4_6_disable_thinking": {"version": "4.6", "thinking": False},
    }
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "44f815868bf02fa458dd2f741a338046f4bf45f398eb6d067766726b9d96cce3": {"version": "4.5"},
        "8804f445c761b9f259e3c1126a579d481a22ca09b2a3d32bcc4eb91bc36e0301": {"version": "4.6"},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "thinking": Option(bool, True, variable="enable_thinking"),
        "version": Option(str, "4.5", ("4.5", "4.6"), variable=None),
    }
    stop = "<|user|>"
    response_format = GLM
    opens_with_assistant = True

    @property
    def has_extension_property(self) -> bool:
        return False  # without thinking too: reasoning that a conversation brings along is dropped later

    def control_tokens(self) -> Sequence[str]:
        return ("[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>")

    def get_stop_sequences(self) -> list[int] | list[str]:
        stops = ("<|user|>", "<|observation|>", "<|endoftext|>")
        return [self.tokenizer.control[text].id for text in stops if text in self.tokenizer.control]

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        last_user = next((i for i in range(count - 1, -1, -1) if messages[i]["role"] == "user"), -1)
        return View(messages, tools, count, live_from=last_user + 1, facts={"last_user": last_user})

    def opening(self, view: View) -> Pieces:
        if not view.tools:
            return ("[gMASK]<sop>",)
        declared = "".join(json.dumps(tool, ensure_ascii=False) + "\n" for tool in view.tools)
        return ("[gMASK]<sop>" + _TOOLS_OPENING, declared, _TOOLS_CLOSING)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role == "user":
            content = _content(message)
            quiet = not self.options["thinking"] and not content.endswith("/nothink")
            return MessageText(("<|user|>\n",), ("", content, "/nothink" if quiet else ""))
        if role == "assistant":
            return MessageText(("<|assistant|>",), self._said(view, index))
        if role == "tool":
            if message.get("content") is None:
                return MessageText(("<|observation|>",), ("",))
            first = index == 0 or view.messages[index - 1]["role"] != "tool"
            header = "<|observation|>\n<tool_response>\n" if first else "\n<tool_response>\n"
            return MessageText((header,), ("", _content(message), "\n</tool_response>"))
        if role == "system":
            return MessageText(("<|system|>\n",), ("", _content(message), ""))
        return NOT_SHOWN

    def _said(self, view: View, index: int) -> Pieces:
        message = view.messages[index]
        content, reasoning = _content(message), message.get("reasoning_content")
        if not isinstance(reasoning, str):
            reasoning, content = split_thought(content)
        content = content.strip()
        pieces: Pieces = (_NO_THOUGHT,)
        if reasoning and index > view.facts["last_user"]:
            pieces = ("\n<think>", reasoning.strip(), "</think>")
        if content:
            pieces = join_pieces(pieces, ("\n", content, ""))
        calls = calls_of(message)
        return join_pieces(pieces, *(self._call(index, call) for call in calls)) if calls else pieces

    def _call(self, index: int, call: Mapping[str, Any]) -> Pieces:
        arguments = call.get("arguments")
        if not arguments and self.options["version"] == "4.6":
            arguments = {}
        if not isinstance(arguments, Mapping):
            raise RefusedError(
                f"messages[{index}].tool_calls",
                "template_refused",
                f"the chat template refuses it: expected arguments as an object; got {arguments!r}",
            )
        pieces = ["\n<tool_call>", call["name"], "\n"]
        for key, value in arguments.items():
            pieces[-1] += "<arg_key>"
            text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
            pieces += (key, "</arg_key>\n<arg_value>", text, "</arg_value>\n")
        pieces[-1] += "</tool_call>"
        return tuple(pieces)

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("<|assistant|>" if self.options["thinking"] else "<|assistant|>" + _NO_THOUGHT,)

    def turn(self, view: View, index: int) -> MessageText:
        body = self._said(view, index)
        if not self.options["thinking"]:
            if body[0] == "\n<think>" and body[1] == "":
                body = (_NO_THOUGHT + body[2].removeprefix("</think>"), *body[3:])
            if not body[0].startswith(_NO_THOUGHT):
                raise RefusedError(
                    f"messages[{index}]",
                    "prompt_disagrees",
                    "expected a turn without reasoning, as thinking is off and its prompt closes the think block; "
                    f"got {body[1][:40]!r}",
                )
            body = (body[0].removeprefix(_NO_THOUGHT), *body[1:])
        return MessageText(("",), body)

    def overlap(self, messages: Sequence[Message], index: int) -> str:
        following = messages[index + 1]["role"] if index + 1 < len(messages) else ""
        if following == "user":
            return "<|user|>"
        return "<|observation|>" if following == "tool" or messages[index].get("tool_calls") else "<|user|>"


def _content(message: Message) -> str:
    content = message.get("content")
    return content if isinstance(content, str) else ""


RENDERERS = (GLM4,)

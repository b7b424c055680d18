"""DeepSeek-V3: all system text at the front, no reasoning, tool calls in code fences.

Its template counts calls and results over the whole conversation, not per turn: only the first call of a conversation
opens a block of calls (and never closes it when it is alone), only the first result opens a block of results. Later
rounds of calls are therefore written unlike their prompts, and refused as training turns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import OptionError, RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Option, Pieces, View, join_pieces
from ..messages import Conversation, Message, ToolSpec
from ..parsing.formats import DEEPSEEK_V3
from ..plan import Plan
from ..rendered import RenderSettings
from ..tokenizer import Tokenizer

__all__ = ["RENDERERS", "DeepSeekV3"]

_BOS, _EOS = "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>"
_USER, _ASSISTANT = "<｜User｜>", "<｜Assistant｜>"
_CALLS, _CALLS_END = "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"
_CALL, _SEP, _CALL_END = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
_OUTPUTS, _OUTPUTS_END = "<｜tool▁outputs▁begin｜>", "<｜tool▁outputs▁end｜>"
_OUTPUT, _OUTPUT_END = "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>"


class DeepSeekV3(Family):
    """DeepSeek-V3 chat. The template shows tool calls only on messages whose content is null; beside any other content
    it shows none of them (counted as `tool_calls_not_shown`).

    Options:
        null_content: True takes the absent content of a message that calls tools as null, so that its calls are
            shown, as servers do that hand nulls to the template. transformers 5 drops nulls before its templates
            see them, and this template then refuses the message; so does this renderer by default.
        thinking: only False: this template has no thinking mode (V3.1's template has; `auto` runs a model's own).
    """

    name: ClassVar[str] = "deepseek_v3"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "deepseekv3": {},
        "deepseekv3_disable_thinking": {},
        "deepseekv3_thinking": {"thinking": True},
    }
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea": {},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "null_content": Option(bool, False, variable=None),
        "thinking": Option(bool, False, choices=(False,), variable=None),
    }
    stop = _EOS
    response_format = DEEPSEEK_V3
    opens_with_assistant = True
    arguments_as_text = True

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        if options.get("thinking") is True:
            raise OptionError(
                "thinking: expected False, as the DeepSeek-V3 template has no thinking mode; got True (a V3.1 model's "
                'own template has one: renderer "auto")'
            )
        super().__init__(tokenizer, **options)

    @property
    def has_extension_property(self) -> bool:
        return True

    def control_tokens(self) -> Sequence[str]:
        return (_BOS, _EOS, _USER, _ASSISTANT)

    def write_conversation(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> None:
        super().write_conversation(plan, index, conversation, weights, settings)
        for message in conversation.messages:
            plan.counts["tool_calls_not_shown"] += bool(message.get("tool_calls")) and not _calls_only(message)

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        # A later system message changes the front, so then nothing written before is settled.
        late_system = any(message["role"] == "system" for message in messages[1:])
        return View(messages, tools, count, live_from=0 if late_system else count - 1)

    def opening(self, view: View) -> Pieces:
        bos = self.tokenizer.bos_token or ""
        if view.count and view.messages[0]["role"] == "system":
            return (bos,)  # the front is message 0's then
        return (bos, self._front(view), "")

    def _front(self, view: View) -> str:
        """The text of all system messages."""
        texts = [_text(view, i) for i in range(view.count) if view.messages[i]["role"] == "system"]
        return "\n\n".join(texts)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role == "user":
            return MessageText((_USER,), ("", _text(view, index), ""))
        if role == "assistant":
            if self.options["null_content"] and _calls_only(message):
                return self._calls(view, index)
            header = _OUTPUTS_END if _after_tool(view, index) else _ASSISTANT
            return MessageText((header,), ("", _text(view, index), _EOS))
        if role == "tool":
            first = all(earlier["role"] != "tool" for earlier in view.messages[:index])
            opening = _OUTPUTS + _OUTPUT if first else "\n" + _OUTPUT
            return MessageText((opening,), ("", _text(view, index), _OUTPUT_END))
        if role == "system" and index == 0:
            return MessageText(("",), ("", self._front(view), ""))
        # Later system messages stand at the front; the template passes over other roles.
        return MessageText(("",), ("",)) if role == "system" else NOT_SHOWN

    def _calls(self, view: View, index: int) -> MessageText:
        calls = view.messages[index].get("tool_calls") or ()
        first = not any(_calls_only(earlier) for earlier in view.messages[:index])
        pieces: list[Pieces] = [("",)]
        for k, call in enumerate(calls):
            function = call["function"]
            if "type" not in call:
                place = f"messages[{index}].tool_calls[{k}].type"
                raise RefusedError(place, "template_refused", "expected 'function', as the chat template shows it")
            begins = first and k == 0
            opening = _CALLS + _CALL if begins else "\n" + _CALL
            closing = "\n```" + _CALL_END + ("" if begins else _CALLS_END + _EOS)
            arguments: Any = function["arguments"]
            pieces.append((opening, call["type"], _SEP, function["name"], "\n```json\n", arguments, closing))
        return MessageText((_ASSISTANT if first and calls else "",), join_pieces(*pieces))

    def closing(self, view: View) -> Pieces:
        return (_OUTPUTS_END if _after_tool(view, view.count) else "",)

    def generation_prompt(self, view: View) -> Pieces:
        return (_OUTPUTS_END if _after_tool(view, view.count) else _ASSISTANT,)

    def turn(self, view: View, index: int) -> MessageText:
        text = self.message(view, index)
        prompt = _OUTPUTS_END if _after_tool(view, index) else _ASSISTANT
        if text.header != (prompt,):
            raise RefusedError(
                f"messages[{index}]",
                "prompt_disagrees",
                f"the template writes these tool calls without the {prompt} that its prompt ends with",
            )
        return text._replace(header=("",))


def _text(view: View, index: int) -> str:
    content = view.messages[index].get("content")
    if not isinstance(content, str):
        hint = " (null_content=True shows its tool calls)" if _calls_only(view.messages[index]) else ""
        raise RefusedError(f"messages[{index}].content", "template_refused", f"expected a string; got none{hint}")
    return content


def _calls_only(message: Message) -> bool:
    return message["role"] == "assistant" and message.get("content") is None and bool(message.get("tool_calls"))


def _after_tool(view: View, index: int) -> bool:
    """Whether results of tools are what was said last before message `index`."""
    for i in range(index - 1, -1, -1):
        role = view.messages[i]["role"]
        if role in ("tool", "user", "assistant"):
            return role == "tool"
    return False


RENDERERS = (DeepSeekV3,)

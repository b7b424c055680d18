"""gpt-oss: Harmony channels, a system block with date and reasoning effort, tools in the developer message.

An answer ends with `<|return|>` where it is the last message and with `<|end|>` in history, so every answer is the
last turn of its example. The reasoning before a tool call is shown until an answer follows in the conversation: the
answer to a tool's result is thus written after a history that its own prompt did not show, and is refused for
training as long as that reasoning is there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, ClassVar, cast

from ..errors import OptionError, RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Option, Pieces, View, join_pieces
from ..messages import Conversation, Message, ToolSpec
from ..parsing.formats import HARMONY
from ..plan import Plan
from ..rendered import RenderSettings
from ..tokenizer import Tokenizer
from ._gpt_oss_text import BUILTIN_TOOLS, builtin_tools_text, functions_text

__all__ = ["RENDERERS", "GptOss"]

_END, _RETURN, _CALL = "<|end|>", "<|return|>", "<|call|>"
_ANALYSIS = "<|channel|>analysis<|message|>"
_FINAL = "<|channel|>final<|message|>"
_ASSISTANT = "<|start|>assistant"
_CHANNELS = "# Valid channels: analysis, commentary, final. Channel must be included for every message."
_FUNCTIONS = "\nCalls to these tools must go to the commentary channel: 'functions'."


class GptOss(Family):
    """gpt-oss chat. Of several tool calls in one message the template shows the first (`tool_calls_not_shown` counts
    the others).

    Options:
        reasoning_effort: the effort named in the system block.
        current_date: the date in the system block, `YYYY-MM-DD`; empty or None takes today's, as the template does,
            once, when the renderer is made. `options` (and so a manifest) always names the date.
        model_identity: the system block's first sentence.
        builtin_tools: names out of `browser` and `python`, described in the system block.
        system_block: False leaves the system block out, which the template never does.
    """

    name: ClassVar[str] = "gpt_oss"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "gpt_oss_low_reasoning": {"reasoning_effort": "low"},
        "gpt_oss_medium_reasoning": {"reasoning_effort": "medium"},
        "gpt_oss_high_reasoning": {"reasoning_effort": "high"},
        "gpt_oss_no_sysprompt": {"system_block": False},
    }
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "a4c9919cbbd4acdd51ccffe22da049264b1b73e59055fa58811a99efbd7c8146": {},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {
        "reasoning_effort": Option(str, "medium", choices=("low", "medium", "high")),
        "current_date": Option(str, "", variable=None),
        "model_identity": Option(str, "You are ChatGPT, a large language model trained by OpenAI."),
        "builtin_tools": Option(list, [], choices=tuple(BUILTIN_TOOLS)),
        "system_block": Option(bool, True, variable=None),
    }
    stop = _RETURN
    response_format = HARMONY

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        if options.get("current_date") is None:
            options.pop("current_date", None)
        super().__init__(tokenizer, **options)
        self.options["current_date"] = _checked_date(self.options["current_date"])
        self.options["builtin_tools"] = list(self.options["builtin_tools"])
        self._system = self._system_block("")
        self._system_with_tools = self._system_block(_FUNCTIONS)

    @property
    def has_extension_property(self) -> bool:
        return False

    def control_tokens(self) -> Sequence[str]:
        return ("<|start|>", "<|channel|>", "<|message|>", _END, _RETURN, _CALL)

    def get_stop_sequences(self) -> list[int] | list[str]:
        """The end of an answer and the end of a tool call."""
        return [self.tokenizer.control[text].id for text in (_RETURN, _CALL)]

    def write_conversation(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> None:
        super().write_conversation(plan, index, conversation, weights, settings)
        for message in conversation.messages:
            plan.counts["tool_calls_not_shown"] += max(len(message.get("tool_calls") or ()) - 1, 0)

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        first = int(bool(count) and messages[0]["role"] in ("system", "developer"))
        answer = -1
        for i in range(count - 1, first - 1, -1):
            if messages[i]["role"] == "assistant" and messages[i].get("tool_calls") is None:
                answer = i
                break
        # Reasoning before calls may go until an answer follows.
        return View(messages, tools, count, min(answer + 1, count - 1), facts={"answer": answer, "first": first})

    # -- system and developer blocks

    def _system_block(self, functions: str) -> Pieces:
        options = self.options
        if not options["system_block"]:
            return ("",)
        identity = options["model_identity"]
        facts = f"\nKnowledge cutoff: 2024-06\nCurrent date: {options['current_date']}\n\n"
        facts += f"Reasoning: {options['reasoning_effort']}\n\n{builtin_tools_text(options['builtin_tools'])}"
        pieces = ("<|start|>system<|message|>", identity, facts + _CHANNELS + functions + _END)
        # One constant, encoded once, unless the identity has a control token's text in it.
        return pieces if self.tokenizer.has_control_token(identity) else ("".join(pieces),)

    def opening(self, view: View) -> Pieces:
        opening = self._system_with_tools if view.tools else self._system
        if view.tools and not view.facts["first"]:
            opening = join_pieces(opening, ("<|start|>developer<|message|>",), _declared(view.tools), (_END,))
        return opening

    def _developer(self, view: View) -> MessageText:
        content = view.messages[0].get("content")
        body: Pieces = ("<|message|>",)
        if content:
            body = join_pieces(body, ("# Instructions\n\n", str(content), "\n\n"))
        if view.tools:
            body = join_pieces(body, _declared(view.tools))
        elif not content:
            return MessageText(("",), ("",))
        return MessageText(("<|start|>developer",), join_pieces(body, (_END,)))

    # -- messages

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if index < view.facts["first"]:
            return self._developer(view)
        if role == "user":
            return MessageText(("<|start|>user",), ("<|message|>", _text(view, index), _END))
        if role == "assistant":
            _check_channels(message, index)
            if message.get("tool_calls") is not None:
                return MessageText((_ASSISTANT,), _call(view, index))
            return MessageText((_ASSISTANT,), self._answer(view, index))
        if role == "tool":
            name = _last_call(view, index)
            result = json.dumps(_text(view, index), ensure_ascii=False)
            body = ("<|channel|>commentary<|message|>", result, _END)
            return MessageText(("<|start|>functions.", name, " to=assistant"), body)
        return NOT_SHOWN

    def _answer(self, view: View, index: int) -> Pieces:
        text = _text(view, index)
        if view.generation or index < view.count - 1:
            return (_FINAL, text, _END)
        thinking = _thinking(view.messages[index])
        if thinking is None:
            return (_FINAL, text, _RETURN)
        return (_ANALYSIS, thinking, _END + _ASSISTANT + _FINAL, text, _RETURN)

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return (_ASSISTANT,)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


def _checked_date(value: str) -> str:
    if not value:
        return date.today().isoformat()  # noqa: DTZ011  (local time, as the template has it)
    try:
        return date.fromisoformat(value).isoformat()
    except ValueError:
        raise OptionError(f"current_date: expected YYYY-MM-DD; got {value!r}") from None


def _declared(tools: Sequence[ToolSpec]) -> Pieces:
    return ("# Tools\n\n", functions_text(tools), "")


def _text(view: View, index: int) -> str:
    content = view.messages[index].get("content")
    if not isinstance(content, str):
        raise RefusedError(f"messages[{index}].content", "template_refused", "expected a string; got none")
    return content


def _thinking(message: Mapping[str, Any]) -> str | None:
    for name in ("thinking", "reasoning_content", "reasoning"):
        if message.get(name) is not None:
            return message[name]
    return None


def _check_channels(message: Mapping[str, Any], index: int) -> None:
    for name, text in (("content", message.get("content")), ("reasoning_content", _thinking(message))):
        if isinstance(text, str) and "<|channel|>" in text and (_ANALYSIS in text or _FINAL in text):
            raise RefusedError(
                f"messages[{index}].{name}",
                "template_refused",
                "the chat template refuses it: expected text without channel headers (analysis belongs into "
                f"reasoning_content); got {text[:60]!r}",
            )


def _call(view: View, index: int) -> Pieces:
    message = cast("Mapping[str, Any]", view.messages[index])
    calls = message["tool_calls"]
    if not calls:
        raise RefusedError(f"messages[{index}].tool_calls", "template_refused", "expected a tool call; got none")
    content, thinking = message.get("content"), _thinking(message)
    if content and thinking:
        raise RefusedError(
            f"messages[{index}]",
            "template_refused",
            "the chat template refuses it: beside tool calls, expected content or reasoning; got both",
        )
    call = calls[0].get("function") or calls[0]
    analysis = (content or thinking) if view.facts["answer"] < index else None
    opening: Pieces = (_ANALYSIS, analysis, _END + _ASSISTANT) if analysis else ("",)
    kind = call.get("content_type", "json")
    arguments = json.dumps(call["arguments"], ensure_ascii=False)
    to: Pieces = (" to=functions.", call["name"], "<|channel|>commentary ", kind, "<|message|>", arguments, _CALL)
    return join_pieces(opening, to)


def _last_call(view: View, index: int) -> str:
    for i in range(index - 1, view.facts["first"] - 1, -1):
        message = cast("Mapping[str, Any]", view.messages[i])
        if message["role"] == "assistant":
            calls = message.get("tool_calls")
            if calls:
                return (calls[0].get("function") or calls[0])["name"]
            break
    raise RefusedError(
        f"messages[{index}]",
        "template_refused",
        "the chat template refuses it: expected a message that calls a tool before this result; got none",
    )


RENDERERS = (GptOss,)

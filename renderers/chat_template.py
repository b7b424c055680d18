"""The model's own chat template as a renderer: the truth for every family, and the renderer of every other model.

A trained turn needs no marks in the template. Rendering the messages before it with the generation prompt gives the
prompt P that sampling will see; rendering them with the turn gives P and the turn's own text, which ends with the
turn's stop token. Where that rendering does not start with P, the turn cannot be trained as it would be sampled, and
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .base import Renderer
from .errors import DroppedError, InputError, OptionError, RefusedError, UserError
from .jinja_template import ChatTemplateSource, Prefixes, TracedText
from .messages import Conversation, Message, ToolSpec
from .parsing import ResponseFormat
from .parsing.probe import probe_format
from .plan import Plan
from .rendered import Refusal, RenderSettings, TrainOnWhat
from .template_probes import keeps_history
from .tokenizer import ControlToken, Tokenizer
from .traced import TEMPLATE
from .train_on import trains_only_assistants

__all__ = ["ChatTemplate", "default_template"]

_PROBE_USER: Message = {"role": "user", "content": "Hello"}
_PROBE = "zqxprobe"
_PROBE_CALL: Any = {"type": "function", "id": "abcde1234", "function": {"name": _PROBE, "arguments": {"key": _PROBE}}}


@dataclass(slots=True)
class Turn:
    """A trained turn as text: `text[:start]` is its prompt, `text[start:stop]` is trained."""

    index: int
    text: str
    origin: str | None
    start: int
    stop: int


class ChatTemplate(Renderer):
    """Renders with the tokenizer's chat template.

    Args:
        tokenizer: a tokenizer that has a chat template, unless `template` is given.
        template: Jinja source instead of the tokenizer's own.
        options: whatever the template reads besides messages and tools (`enable_thinking=False`, …).

    Raises:
        UserError: there is no chat template, or it is not valid Jinja.
        OptionError: an option that the template never reads.
    """

    name = "chat_template"

    def __init__(self, tokenizer: Tokenizer, template: str | None = None, **options: Any) -> None:
        source = template or default_template(tokenizer)
        self.tokenizer = tokenizer
        self.options = dict(options)
        self._template = ChatTemplateSource(source, {**tokenizer.special_tokens, **options})
        self.template_hash = self._template.hash
        known = self._template.undeclared - {"messages", "tools", "documents", "add_generation_prompt"}
        for option in options:
            if option not in known:
                raise OptionError(
                    f"{option}: this chat template reads no such option; expected one of "
                    f"{', '.join(sorted(known - set(tokenizer.special_tokens))) or '(none)'}"
                )

    # -- what the template does, found out by asking it

    @cached_property
    def _closing(self) -> str:
        """What the template writes after an assistant's content when that is the last message."""
        prompt = self.probe([_PROBE_USER], generation=True)
        turn = self.probe([_PROBE_USER, {"role": "assistant", "content": _PROBE}])
        if prompt is None or turn is None or _PROBE not in turn:
            return ""
        return turn[turn.rindex(_PROBE) + len(_PROBE) :]

    @cached_property
    def _rest(self) -> str:
        """The part of `_closing` after the stop token: written by the template, never sampled."""
        parts = self.tokenizer.split(self._closing)
        for i, part in enumerate(parts):
            if isinstance(part, ControlToken):
                return "".join(p if isinstance(p, str) else p.text for p in parts[i + 1 :])
        return ""

    @cached_property
    def generation_suffix(self) -> str:
        """What the generation prompt adds to a rendering without it; empty when it does more than add."""
        without, prompt = self.probe([_PROBE_USER]), self.probe([_PROBE_USER], generation=True)
        if without is None or prompt is None or not prompt.startswith(without):
            return ""
        return prompt[len(without) :]

    @cached_property
    def _stops(self) -> list[ControlToken]:
        """Tokens that end a turn: by the template's closing, tool calls included, then by the model's own settings."""
        configured = set(self.tokenizer.generation_stop_tokens)
        by_config = [t for t in self.tokenizer.control.values() if t.id in configured]
        eos = [t for t in self.tokenizer.control.values() if t.text == self.tokenizer.eos_token]
        return list(dict.fromkeys((*self._written_stops, *by_config, *eos)))

    @cached_property
    def _written_stops(self) -> list[ControlToken]:
        """Tokens that the template writes at the end of an answer and of a call."""
        called = self.probe([_PROBE_USER, {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}]) or ""
        after_call = called[called.rindex(_PROBE) + len(_PROBE) :] if _PROBE in called else ""
        last_of_call = [part for part in self.tokenizer.split(after_call) if isinstance(part, ControlToken)][-1:]
        first_of_text = [part for part in self.tokenizer.split(self._closing) if isinstance(part, ControlToken)][:1]
        inside = self.response_format.marks  # a mark around a call ends the call, not the turn
        return [token for token in dict.fromkeys((*first_of_text, *last_of_call)) if token.text not in inside]

    @cached_property
    def arguments_as_text(self) -> bool:  # type: ignore[override]
        """True when the template takes tool-call arguments as JSON text only."""
        text_call = {**_PROBE_CALL, "function": {**_PROBE_CALL["function"], "arguments": f'{{"key": "{_PROBE}"}}'}}  # type: ignore[dict-item]

        def calls_with(call: Any) -> str | None:
            for extra in ({}, {"content": ""}):
                text = self.probe([_PROBE_USER, {"role": "assistant", "tool_calls": [call], **extra}])  # type: ignore[typeddict-item]
                if text is not None and text.count(_PROBE) >= 2:
                    return text
            return None

        return calls_with(_PROBE_CALL) is None and calls_with(text_call) is not None

    @cached_property
    def takes_parts(self) -> bool:  # type: ignore[override]
        """True when a list of text parts renders as the parts' text, and not as nothing or as a Python list."""
        parts: list[Any] = [{"type": "text", "text": _PROBE}, {"type": "text", "text": "Hello"}]
        text = self.probe([{"role": "user", "content": parts}])
        return text is not None and _PROBE in text and "'text'" not in text and '"text"' not in text

    def probe(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] | None = None,
        *,
        generation: bool = False,
    ) -> str | None:
        try:
            return self._template.render(messages, tools, add_generation_prompt=generation)
        except RefusedError:
            return None

    def get_stop_sequences(self) -> list[int]:
        return [token.id for token in self._stops]

    def turn_stops(self) -> list[int]:
        written = self._written_stops or self._stops
        return [token.id for token in written]

    @cached_property
    def response_format(self) -> ResponseFormat:  # type: ignore[override]
        """Found by asking the template; its `name` says what was found."""
        return probe_format(self.tokenizer, self.probe)

    @property
    def has_extension_property(self) -> bool:
        """Decided by rendering probe conversations: plain, with reasoning, with tools, with a system message."""
        return self._extends

    @cached_property
    def _extends(self) -> bool:
        return keeps_history(self.probe, self._rest)

    # -- prompts

    def write_prompt(self, plan: Plan, messages: Sequence[Message], tools: Sequence[ToolSpec] | None) -> None:
        hostile = plan.control_tokens != "parse" and self._has_control(messages, tools)
        if hostile:
            self._note_hostile(plan)
        text, origin = self._render(messages, tools, generation=True, hostile=hostile)
        self._write(plan, text, origin, 0, len(text))

    # -- conversations

    def write_conversation(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> None:
        hostile = plan.control_tokens != "parse" and self._has_control(conversation.messages, conversation.tools)
        if hostile:
            self._note_hostile(plan)
        single = settings.turns == "single" or not trains_only_assistants(conversation.messages, weights)
        if settings.train_on_what is TrainOnWhat.ALL_TOKENS or (single and any(weights)):
            self._write_single(plan, index, conversation, weights, settings, hostile=hostile)
        else:
            self._write_turns(plan, index, conversation, weights, settings, hostile=hostile)

    def _write_turns(
        self,
        plan: Plan,
        index: int,
        conversation: Conversation,
        weights: list[float],
        settings: RenderSettings,
        *,
        hostile: bool,
    ) -> None:
        last: Turn | None = None  # the last turn of the open example
        examples, merged = 0, False
        prefixes = self._template.prefixes(conversation.messages, conversation.tools)
        spans = _Spans(self, prefixes)
        for i, weight in enumerate(weights):
            if not weight:
                continue
            try:
                turn = self._turn(plan, conversation, prefixes, i, hostile=hostile)
            except InputError as error:
                plan.refusals.append(Refusal(index, i, error.field, error.reason, error.detail))
                continue
            shares = (
                last is not None
                and settings.turns != "split"
                and not merged
                and turn.start >= last.stop
                and turn.text.startswith(last.text[: last.stop])
            )
            if last is not None and not shares:
                plan.end_example(index, last.index)
                examples += 1
            spans.write(plan, turn, last.stop if last is not None and shares else 0, fresh=not shares)
            plan.begin_body(weight)
            self._write(plan, turn.text, turn.origin, turn.start, turn.stop)
            plan.end_body()
            merged = plan.merged()
            plan.counts["header_merge"] += merged
            last = turn
        if last is None:
            return
        plan.end_example(index, last.index if examples else -1)
        plan.counts["conversations_split"] += bool(examples)
        if examples and settings.turns == "drop":
            raise DroppedError("messages", "turns_disagree", "its trained turns cannot share one sequence")

    def _turn(self, plan: Plan, conversation: Conversation, prefixes: Prefixes, index: int, *, hostile: bool) -> Turn:
        origin: str | None = None
        try:
            prompt = prefixes.render(index, add_generation_prompt=True)
            if hostile:
                text, origin = self._render(conversation.messages[: index + 1], conversation.tools, hostile=True)
            else:
                text = prefixes.render(index + 1)
        except RefusedError as error:
            raise RefusedError(f"messages[{index}]", error.reason, error.detail) from None
        if not text.startswith(prompt):
            raise RefusedError(
                f"messages[{index}]",
                "prompt_disagrees",
                "the template renders this turn unlike the prompt it gives for it, so it would be trained under "
                "a prompt that sampling never shows",
            )
        stop, has_stop = self._stop_of(text, origin, len(prompt))
        plan.counts["turn_without_stop_token"] += not has_stop
        if self._template.has_generation_marks:
            plan.counts["generation_marks_differ"] += self._marks_differ(conversation, index, len(prompt), stop)
        return Turn(index, text, origin, len(prompt), stop)

    def _stop_of(self, text: str, origin: str | None, start: int) -> tuple[int, bool]:
        """Where the turn that starts at `start` and is the last of `text` ends, and whether with a stop token."""
        if not self._written_stops:
            return len(text), False  # what stands there was typed, and made live by `control_tokens="parse"`
        stops = {token.text for token in self._stops}
        if self._closing and text.endswith(self._closing) and len(text) - len(self._closing) >= start:
            return len(text) - len(self._rest), self.tokenizer.has_control_token(self._closing)
        for match in reversed(list(self.tokenizer.control_pattern.finditer(text, start))):
            if match.group() in stops and (origin is None or set(origin[match.start() : match.end()]) == {TEMPLATE}):
                return match.end(), True
        return len(text), False

    def _marks_differ(self, conversation: Conversation, index: int, start: int, stop: int) -> bool:
        traced = self._template.render_traced(conversation.messages[: index + 1], conversation.tools)
        return not traced.generation or traced.generation[-1] != (start, stop)

    # -- one sequence of everything

    def _write_single(
        self,
        plan: Plan,
        index: int,
        conversation: Conversation,
        weights: list[float],
        settings: RenderSettings,
        *,
        hostile: bool,
    ) -> None:
        messages, tools = conversation.messages, conversation.tools
        if not hostile and self._write_single_by_headers(plan, index, conversation, weights, settings):
            return
        traced = self._template.render_traced(messages, tools)
        everything = settings.train_on_what is TrainOnWhat.ALL_TOKENS
        position = 0
        last = -1
        if everything:
            bos = self.tokenizer.bos_token or ""
            position = len(bos) if bos and traced.text.startswith(bos) else 0
            self._write(plan, traced.text, traced.origin, 0, position)
            # What follows the last stop token nobody ever says: written as the template does, and not trained.
            closed = bool(self._closing) and traced.text.endswith(self._closing)
            stop = len(traced.text) - (len(self._rest) if closed else 0)
            plan.begin_body(1.0)
            self._write_by_origin(plan, traced, position, stop)
            plan.end_body()
            self._write(plan, traced.text, traced.origin, stop, len(traced.text))
        for i, weight in enumerate(weights):
            if not weight or everything:
                continue
            start, stop = self._span_in(traced, conversation, i)
            if start < position:
                raise RefusedError(f"messages[{i}]", "span_not_found", "its text overlaps another message's")
            self._write_by_origin(plan, traced, position, start)
            plan.begin_message(i)
            plan.begin_body(weight)
            self._write(plan, traced.text, traced.origin, start, stop)
            plan.end_body()
            plan.counts["header_merge"] += plan.merged()
            position, last = stop, i
        if last >= 0 or everything:
            plan.end_example(index, -1)

    def _write_single_by_headers(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> bool:
        """The quick way: no message contains a control token, so every assistant header in the text is the template's.

        Returns False, with nothing written, where headers and assistant messages cannot be matched one to one.
        """
        messages = conversation.messages
        header = self.generation_suffix
        speakers = [i for i, message in enumerate(messages) if message["role"] == "assistant"]
        if settings.train_on_what is TrainOnWhat.ALL_TOKENS or any(
            weight and messages[i]["role"] != "assistant" for i, weight in enumerate(weights)
        ):
            return False
        if not header or not self.tokenizer.has_control_token(header):
            return False
        text = self._template.render(messages, conversation.tools)
        starts: list[int] = []
        position = text.find(header)
        while position >= 0:
            starts.append(position + len(header))
            position = text.find(header, position + len(header))
        if len(starts) != len(speakers):
            return False
        stops = {token.text for token in self._stops}
        position = 0
        for i, start in zip(speakers, starts, strict=True):
            if not weights[i]:
                continue
            ends = (m.end() for m in self.tokenizer.control_pattern.finditer(text, start) if m.group() in stops)
            stop = next(ends, len(text))
            plan.begin_message(i - 1)
            self._write(plan, text, None, position, start - len(header))
            plan.begin_message(i)
            self._write(plan, text, None, start - len(header), start)
            plan.begin_body(weights[i])
            self._write(plan, text, None, start, stop)
            plan.end_body()
            plan.counts["header_merge"] += plan.merged()
            position = stop
        plan.end_example(index, -1)
        return True

    def _span_in(self, traced: TracedText, conversation: Conversation, index: int) -> tuple[int, int]:
        """Where a message's own text, with its end token, lies in the rendering of the whole conversation."""
        mark = chr(index + 1)
        first, last = traced.origin.find(mark), traced.origin.rfind(mark)
        if conversation.messages[index]["role"] == "assistant":
            prompt = self._template.render(
                conversation.messages[:index], conversation.tools, add_generation_prompt=True
            )
            if traced.text.startswith(prompt):
                first, last = len(prompt), max(last, len(prompt) - 1)
        if first < 0:
            raise RefusedError(f"messages[{index}]", "span_not_found", "the template shows nothing of this message")
        for match in self.tokenizer.control_pattern.finditer(traced.text, last + 1):
            if set(traced.origin[match.start() : match.end()]) == {TEMPLATE}:
                return first, match.end()
        return first, last + 1

    # -- text to pieces

    def write_text(self, plan: Plan, turn: Turn, start: int, stop: int) -> None:
        """Write a part of a turn's text."""
        self._write(plan, turn.text, turn.origin, start, stop)

    def _note_hostile(self, plan: Plan) -> None:
        plan.control_in_content = True
        if plan.control_tokens == "reject":
            raise InputError("messages", "control_token", "expected text without control tokens; got some")

    def _render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] | None,
        *,
        generation: bool = False,
        hostile: bool = False,
    ) -> tuple[str, str | None]:
        """The text and, where some message contains a control token, its origins."""
        if hostile:
            traced = self._template.render_traced(messages, tools, add_generation_prompt=generation)
            return traced.text, traced.origin
        return self._template.render(messages, tools, add_generation_prompt=generation), None

    def _has_control(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None) -> bool:
        search = self.tokenizer.control_pattern.search
        return any(_found(message, search) for message in messages) or (tools is not None and _found(tools, search))

    def _write(self, plan: Plan, text: str, origin: str | None, start: int, stop: int) -> None:
        """Write `text[start:stop]`: the template's own control tokens live, everything else text."""
        if origin is None or plan.control_tokens == "parse":
            plan.dynamic_template(text[start:stop])
            return
        position = start
        for match in self.tokenizer.control_pattern.finditer(text, start, stop):
            if set(origin[match.start() : match.end()]) == {TEMPLATE}:
                plan.raw_content(text[position : match.start()])
                plan.control(self.tokenizer.control[match.group()])
                position = match.end()
            elif match.group() in self.tokenizer.unsafe_controls:
                raise RefusedError("messages", "control_token", f"this tokenizer cannot keep {match.group()!r} as text")
        plan.raw_content(text[position:stop])

    def _write_by_origin(self, plan: Plan, traced: TracedText, start: int, stop: int) -> None:
        """Write traced text, each stretch under the message it came from."""
        position = start
        for boundary, message in self._boundaries(traced):
            if position < boundary:
                end = min(boundary, stop)
                self._write(plan, traced.text, traced.origin, position, end)
                position = end
            if boundary < stop:
                plan.begin_message(message)
            if position >= stop:
                return
        self._write(plan, traced.text, traced.origin, position, stop)

    def _boundaries(self, traced: TracedText) -> list[tuple[int, int]]:
        """Where each message begins: after the stop token (and what follows it) of the one before."""
        found: list[tuple[int, int]] = []
        stops = {token.text for token in self._stops}
        previous, seen = 0, TEMPLATE
        for i, mark in enumerate(traced.origin):
            if mark in (TEMPLATE, seen):
                continue
            between = list(self.tokenizer.control_pattern.finditer(traced.text, previous, i))
            begin = previous
            if between and between[0].group() in stops:
                begin = between[1].start() if len(between) > 1 else i
            elif between:
                begin = between[0].start()
            found.append((begin, ord(mark) - 1))
            seen = mark
            previous = traced.origin.rfind(mark) + 1
        return found


class _Spans:
    """Writes the untrained text of one conversation, each stretch under its message.

    A message ends where the rendering of the messages up to it ends, as long as that is how the text begins.
    """

    def __init__(self, renderer: ChatTemplate, prefixes: Prefixes) -> None:
        self._renderer = renderer
        self._prefixes = prefixes
        self._next = 0
        # Where the messages of the last example begin in its text.
        self._starts: dict[int, int] = {}
        self._text = ""

    def write(self, plan: Plan, turn: Turn, start: int, *, fresh: bool) -> None:
        """Write `turn.text[start : turn.start]`; `fresh` when a new example begins."""
        position = start
        if fresh:
            self._next, position = self._reused(plan, turn)
            self._starts = {m: p for m, p in self._starts.items() if m <= self._next}
        self._text = turn.text
        for message in range(self._next, turn.index):
            plan.begin_message(message)
            self._starts[message] = position
            end = self._end_of(message, turn)
            if end is not None and position <= end <= turn.start:
                self._renderer.write_text(plan, turn, position, end)
                position = end
        plan.begin_message(turn.index)
        self._renderer.write_text(plan, turn, position, turn.start)
        self._next = turn.index + 1

    def _reused(self, plan: Plan, turn: Turn) -> tuple[int, int]:
        """Begin with what the last example shares with this turn's prompt: next message, and position in the text."""
        for message in sorted(self._starts, reverse=True):
            position = self._starts[message]
            if position and turn.text.startswith(self._text[:position]) and plan.reuse(message):
                return message, position
        return 0, 0

    def _end_of(self, message: int, turn: Turn) -> int | None:
        suffix = self._renderer.generation_suffix
        if message == turn.index - 1 and suffix and turn.text.endswith(suffix, 0, turn.start):
            return turn.start - len(suffix)
        try:
            text = self._prefixes.render(message + 1)
        except RefusedError:
            return None
        return len(text) if turn.text.startswith(text) else None


def _found(value: Any, search: Any) -> bool:
    """Whether any string inside JSON-like data matches."""
    if isinstance(value, str):
        return search(value) is not None
    if isinstance(value, Mapping):
        return any(_found(item, search) or search(key) is not None for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return any(_found(item, search) for item in value)
    return False


def default_template(tokenizer: Tokenizer) -> str:
    """The model's chat template, the one named `default` when there are several."""
    template = tokenizer.chat_template
    if isinstance(template, dict):
        template = template.get("default") or next(iter(template.values()), None)
    if not template:
        raise UserError(f"{tokenizer.name}: expected a chat template (chat_template.jinja or in its config); got none")
    return template

"""The model's own chat template as a renderer: the truth for every family, and the renderer of every other model.

A trained turn needs no marks in the template. Rendering the messages before it with the generation prompt gives the
prompt P that sampling will see; rendering them with the turn gives P and the turn's own text, which ends with the
turn's stop token. Where that rendering does not start with P, the turn cannot be trained as it would be sampled, and
is refused.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .base import Renderer
from .errors import DroppedError, InputError, OptionError, RefusedError, UserError
from .jinja_template import ChatTemplateSource, Prefixes, TracedText
from .messages import Conversation, Message, ToolSpec
from .parsing import ResponseFormat
from .plan import Plan
from .rendered import Refusal, RenderSettings, TrainOnWhat
from .template_facts import TemplateFacts
from .template_spans import Spans, Turn, begins_alike, message_starts
from .tokenizer import Tokenizer
from .traced import TEMPLATE
from .train_on import trains_only_assistants

__all__ = ["ChatTemplate", "default_template"]


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
        self.facts = TemplateFacts(self._template, tokenizer)
        known = self._template.undeclared - {"messages", "tools", "documents", "add_generation_prompt"}
        for option in options:
            if option not in known:
                raise OptionError(
                    f"{option}: this chat template reads no such option; expected one of "
                    f"{', '.join(sorted(known - set(tokenizer.special_tokens))) or '(none)'}"
                )

    @property
    def arguments_as_text(self) -> bool:  # type: ignore[override]
        """True when the template takes tool-call arguments as JSON text only."""
        return self.facts.arguments_as_text

    @property
    def takes_parts(self) -> bool:  # type: ignore[override]
        """True when the template itself reads content given as text parts."""
        return self.facts.takes_parts

    @property
    def response_format(self) -> ResponseFormat:  # type: ignore[override]
        """Found by asking the template; its `name` says what was found."""
        return self.facts.response_format

    @property
    def has_extension_property(self) -> bool:
        """Decided by rendering probe conversations: plain, with reasoning, with tools, with a system message."""
        return self.facts.keeps_history

    def get_stop_sequences(self) -> list[int]:
        return [token.id for token in self.facts.stops]

    def turn_stops(self) -> list[int]:
        return [token.id for token in self.facts.written_stops or self.facts.stops]

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
        spans = Spans(prefixes, self.facts.generation_suffix, self._write)
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
                and begins_alike(turn.text, turn.origin, last.text, last.origin, last.stop)
            )
            if last is not None and not shares:
                plan.end_example(index, last.index)
                examples += 1
            spans.write(plan, turn, fresh=not shares)
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
        prompt_origin: str | None = None
        try:
            messages, tools = conversation.messages, conversation.tools
            if hostile:
                prompt, prompt_origin = self._render(messages[:index], tools, generation=True, hostile=True)
                text, origin = self._render(messages[: index + 1], tools, hostile=True)
            else:
                prompt = prefixes.render(index, add_generation_prompt=True)
                text = prefixes.render(index + 1)
        except RefusedError as error:
            raise RefusedError(f"messages[{index}]", error.reason, error.detail) from None
        if not begins_alike(text, origin, prompt, prompt_origin, len(prompt)):
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
        if not self.facts.written_stops:
            return len(text), False  # what stands there was typed, and made live by `control_tokens="parse"`
        stops = self.facts.stop_texts
        if self.facts.closing and text.endswith(self.facts.closing) and len(text) - len(self.facts.closing) >= start:
            return len(text) - len(self.facts.rest), self.tokenizer.has_control_token(self.facts.closing)
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
            closed = bool(self.facts.closing) and traced.text.endswith(self.facts.closing)
            stop = len(traced.text) - (len(self.facts.rest) if closed else 0)
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
        header = self.facts.generation_suffix
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
        stops = self.facts.stop_texts
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
        for boundary, message in message_starts(traced, self.tokenizer, self.facts.stop_texts):
            if position < boundary:
                end = min(boundary, stop)
                self._write(plan, traced.text, traced.origin, position, end)
                position = end
            if boundary < stop:
                plan.begin_message(message)
            if position >= stop:
                return
        self._write(plan, traced.text, traced.origin, position, stop)


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

"""`Family`: a renderer written in Python for one chat-template family, only faster than the template, plus parsing.

A family says what each message looks like as *pieces*: a tuple that alternates template text and message text,
starting and ending with template text: `("<|im_start|>user\\n", "Hello", "<|im_end|>")`. Control tokens live in
template text only. How trained turns share sequences follows from the pieces and is decided here, once.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, NamedTuple, cast

from .base import Renderer
from .errors import DroppedError, InputError, OptionError, RefusedError
from .messages import Conversation, Message, ToolSpec
from .pieces import NOT_SHOWN, MessageText, Pieces, join_pieces
from .plan import Plan
from .rendered import Refusal, RenderSettings, TrainOnWhat
from .tokenizer import Tokenizer
from .train_on import trains_only_assistants

__all__ = ["NOT_SHOWN", "Family", "MessageText", "Option", "Pieces", "View", "join_pieces"]


class Option(NamedTuple):
    """One option of a family.

    Attributes:
        type: type of its values.
        default: its value when not given.
        choices: allowed values when they are few; for a list, of what is in it.
        help: one line for a person.
        variable: the name that the chat template reads it under; empty for the same name, None when it reads none.
    """

    type: type
    default: Any
    choices: tuple[Any, ...] = ()
    help: str = ""
    variable: str | None = ""


@dataclass(slots=True)
class View:
    """The first `count` messages of a conversation, as a template sees them when they are all there is.

    Attributes:
        live_from: messages from here on may be written differently once more messages follow.
        generation: whether a generation prompt follows, as some templates write the last message differently then.
        facts: whatever a family derives from the messages once per view.
    """

    messages: Sequence[Message]
    tools: Sequence[ToolSpec] | None
    count: int
    live_from: int
    generation: bool = False
    facts: dict[str, Any] = field(default_factory=dict[str, Any])


class Family(Renderer):
    """Base of the family renderers.

    Class attributes that a family sets:
        name: the renderer's name.
        aliases: further names, each with the options that it stands for.
        templates: sha256 of chat templates that it reproduces, with the options that each needs.
        OPTIONS: its options by name.
        stop: text of the token that ends a turn.
        ending: text that completes a stop string and that another message's header may begin with; written, and
            trained, only where an example ends with an assistant's turn. Empty where turns end with a token.
        opens_with_assistant: whether its template gives a prompt before any message; where it does not, an assistant
            message that comes first cannot be trained.
    """

    name: ClassVar[str]  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {}
    OPTIONS: ClassVar[Mapping[str, Option]] = {}
    stop: ClassVar[str]
    ending: ClassVar[str] = ""
    opens_with_assistant: ClassVar[bool] = False

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        self.tokenizer = tokenizer
        self.options = {name: option.default for name, option in self.OPTIONS.items()}
        for name, value in options.items():
            self.options[name] = _checked(self.name, name, value, self.OPTIONS)
        missing = [text for text in self.control_tokens() if text not in tokenizer.control]
        if missing:
            raise OptionError(
                f"renderer {self.name}: expected a tokenizer with the control token {missing[0]!r}; "
                f"{tokenizer.name or 'this one'} has none"
            )
        self.template_hash = None

    # -- what a family writes

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        """The first `count` messages; by default nothing but the last message can change later."""
        return View(messages, tools, count, live_from=count - 1)

    def opening(self, view: View) -> Pieces:  # noqa: ARG002
        """What comes before the first message."""
        return ("",)

    @abstractmethod
    def message(self, view: View, index: int) -> MessageText:
        """Message `index` of the view; raise `RefusedError` where the template raises."""

    @abstractmethod
    def generation_prompt(self, view: View) -> Pieces:
        """What follows the view's messages when the assistant is to speak."""

    def closing(self, view: View) -> Pieces:  # noqa: ARG002
        """What follows the view's messages when nobody is to speak."""
        return ("",)

    @abstractmethod
    def turn(self, view: View, index: int) -> MessageText:
        """The view's last message, an assistant's, as it follows the generation prompt of the messages before it.

        Its header is empty: the generation prompt is the header. Raises `RefusedError` (`prompt_disagrees`) where the
        template writes the turn unlike its prompt.
        """

    def overlap(self, messages: Sequence[Message], index: int) -> str:  # noqa: ARG002
        """For templates without an end token: what follows the turn `index` and ends it.

        It is the beginning of the next message's header, or what that would be where there is none; trained with the
        turn, and written once. Empty where turns end with a token of their own.
        """
        return ""

    def control_tokens(self) -> Sequence[str]:
        """Control tokens without which this family cannot be written."""
        return (self.stop,)

    def template_variables(self) -> dict[str, Any]:
        """What `apply_chat_template` must be given to write the same: `chat_template_kwargs` of a server."""
        return {
            option.variable or name: self.options[name]
            for name, option in self.OPTIONS.items()
            if option.variable is not None
        }

    def get_stop_sequences(self) -> list[int] | list[str]:
        return [self.tokenizer.control[self.stop].id]

    # -- prompts

    def write_prompt(self, plan: Plan, messages: Sequence[Message], tools: Sequence[ToolSpec] | None) -> None:
        view = self._prompt_view(messages, tools, len(messages))
        self._write_messages(plan, view, 0)
        plan.write(self.generation_prompt(view))

    def _prompt_view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        view = self.view(messages, tools, count)
        view.generation = True
        return view

    # -- conversations

    def write_conversation(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> None:
        everything = settings.train_on_what is TrainOnWhat.ALL_TOKENS
        single = settings.turns == "single" or not trains_only_assistants(conversation.messages, weights)
        if everything or (single and any(weights)):
            self._write_single(plan, index, conversation, weights, everything=everything)
        else:
            self._write_turns(plan, index, conversation, weights, settings)

    def _write_messages(self, plan: Plan, view: View, start: int, written: str = "") -> None:
        """Messages from `start` to the end of the view, untrained; with the opening when from the first.

        `written`: how the first header begins, where that stands there already as the turn before it overlaps.
        """
        if start == 0:
            plan.write(self.opening(view))
        for i in range(start, view.count):
            text = self.message(view, i)
            if text is NOT_SHOWN:
                plan.counts["message_not_shown"] += 1
            if written:
                text = text._replace(header=_after(text.header, written))
                written = ""
            plan.message(i, text, 0.0)

    def _write_turns(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> None:
        messages, tools = conversation.messages, conversation.tools
        last: tuple[View, MessageText, Pieces] | None = None  # the open example's last turn
        previous: View | None = None  # the view of the example before the open one
        examples, merged, last_index, last_weight, overlap = 0, False, -1, 0.0, ""
        for i, weight in enumerate(weights):
            if not weight:
                continue
            if i == 0 and not self.opens_with_assistant:
                detail = "expected a message before the first trained turn, as the template gives no prompt without one"
                plan.refusals.append(Refusal(index, 0, "messages[0]", "template_refused", detail))
                continue
            writing = False
            try:
                prompt_view = self._prompt_view(messages, tools, i)
                turn_view = self.view(messages, tools, i + 1)
                self._check_history(prompt_view, turn_view)
                turn = self.turn(turn_view, i)
                prompt = self.generation_prompt(prompt_view)
                shares = (
                    last is not None
                    and settings.turns != "split"
                    and not merged
                    and self._continues(last[0], join_pieces(last[2], last[1].body, last[1].rest), prompt_view)
                    and (not overlap or self._begins(prompt_view, last_index + 1, overlap))
                )
                writing = True
                if last is not None and not shares:
                    self._write_ending(plan, last_weight)
                    plan.end_example(index, last_index)
                    examples += 1
                    previous, last = last[0], None
                if last is not None:
                    plan.write(last[1].rest)
                    self._write_messages(plan, prompt_view, last_index + 1, overlap)
                else:
                    self._write_messages(plan, prompt_view, self._reused(plan, previous, prompt_view))
            except InputError as error:
                if writing:  # an earlier message is at fault, and half of the conversation is written
                    raise
                plan.refusals.append(Refusal(index, i, error.field, error.reason, error.detail))
                continue
            plan.begin_message(i)
            plan.write(prompt)
            plan.begin_body(weight)
            plan.write(turn.body)
            overlap = self.overlap(messages, i)
            if overlap:
                plan.template(overlap)
            plan.end_body()
            merged = plan.merged()
            plan.counts["header_merge"] += merged
            last, last_index, last_weight = (turn_view, turn, prompt), i, weight
        if last is None:
            return
        self._write_ending(plan, last_weight)
        plan.end_example(index, last_index if examples else -1)
        plan.counts["conversations_split"] += bool(examples)
        if examples and settings.turns == "drop":
            raise DroppedError("messages", "turns_disagree", "its trained turns cannot share one sequence")

    def _write_ending(self, plan: Plan, weight: float) -> None:
        if self.ending and weight:
            plan.begin_body(weight)
            plan.template(self.ending)
            plan.end_body()

    def _reused(self, plan: Plan, old: View | None, new: View) -> int:
        """Begin with what the last example, written for `old`, shares with the new view; its number of messages."""
        if old is None or self.opening(old) != self.opening(new):
            return 0
        same = min(max(old.live_from, 0), old.count - 1)
        while same < old.count - 1 and _flat(self.message(old, same)) == _flat(self.message(new, same)):
            same += 1
        while same and (self._overlapped(new, same) or not plan.reuse(same)):
            same -= 1
        return same

    def _overlapped(self, view: View, index: int) -> bool:
        """Whether the message before may have written this one's beginning: then no example is cut here."""
        before = index - 1
        return view.messages[before]["role"] == "assistant" and self.overlap(view.messages, before) != ""

    def _begins(self, view: View, index: int, overlap: str) -> bool:
        """Whether what the overlap of the turn before `index` promised is what follows it."""
        return index < view.count and self.message(view, index).header[0].startswith(overlap)

    def _check_history(self, prompt: View, turn: View) -> None:
        """Refuse a turn with which the template writes the messages before it unlike in the turn's own prompt."""
        for i in range(max(prompt.live_from, 0), prompt.count):
            if _flat(self.message(prompt, i)) != _flat(self.message(turn, i)):
                raise RefusedError(
                    f"messages[{prompt.count}]",
                    "prompt_disagrees",
                    f"the template writes messages[{i}] differently once this turn follows, so the turn would be "
                    "trained under a prompt that sampling never shows",
                )

    def _continues(self, old: View, turn: Pieces, new: View) -> bool:
        """Whether the new view begins with what was written for the old one, whose last message was `turn`."""
        last = old.count - 1
        if self.opening(old) != self.opening(new):
            return False
        for i in range(max(old.live_from, 0), last):
            if _flat(self.message(old, i)) != _flat(self.message(new, i)):
                return False
        return _flat(self.message(new, last)) == _normal(turn)

    def _write_single(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], *, everything: bool
    ) -> None:
        messages = conversation.messages
        view = self.view(messages, conversation.tools, len(messages))
        opening = self.opening(view)
        bos = self.tokenizer.bos_token
        if everything:
            if bos and opening[0].startswith(bos):
                plan.template(bos)
                opening = (opening[0].removeprefix(bos), *opening[1:])
            plan.begin_body(1.0)
        plan.write(opening)
        last = len(messages) - 1 if everything else max(i for i, weight in enumerate(weights) if weight)
        overlap = ""
        has_overlap = type(self).overlap is not Family.overlap
        for i in range(last + 1):
            text = self.message(view, i)
            if text is NOT_SHOWN:
                plan.counts["message_not_shown"] += 1
            if overlap:
                text = text._replace(header=_after(text.header, overlap))
            weight = 0.0 if everything else weights[i]
            if weight and not any(text.body):
                raise RefusedError(f"messages[{i}]", "span_not_found", "the template shows nothing of this message")
            overlaps = weight and has_overlap and messages[i]["role"] == "assistant"
            overlap = self._overlap_in(view, i, last) if overlaps else ""
            if overlap:
                text = text._replace(body=join_pieces(text.body, (overlap,)))
            if i < last:
                plan.message(i, text, weight)
                continue
            plan.message(i, text._replace(rest=("",)), weight)
            if everything:
                # What follows the last stop token nobody ever says: written as the template does, and not trained.
                plan.end_body()
                plan.write(text.rest)
                plan.write(self.closing(view))
        if last == len(messages) - 1 and messages[last]["role"] == "assistant":
            self._write_ending(plan, 1.0 if everything else weights[last])
        plan.counts["header_merge"] += plan.merged()
        plan.end_example(index, -1)

    def _overlap_in(self, view: View, index: int, last: int) -> str:
        """The overlap of a turn inside one whole sequence; none where the next message begins otherwise."""
        overlap = self.overlap(view.messages, index)
        return overlap if not overlap or index == last or self._begins(view, index + 1, overlap) else ""


def _after(pieces: Pieces, beginning: str) -> Pieces:
    return (pieces[0].removeprefix(beginning), *pieces[1:])


def _flat(text: MessageText) -> Pieces:
    return _normal(join_pieces(*text))


def _normal(pieces: Pieces) -> Pieces:
    """The same without empty message text, so that equal text has equal pieces."""
    if "" not in pieces[1::2]:
        return pieces
    kept = [pieces[0]]
    for content, template in zip(pieces[1::2], pieces[2::2], strict=True):
        if content:
            kept += (content, template)
        else:
            kept[-1] += template
    return tuple(kept)


def _checked(renderer: str, name: str, value: Any, options: Mapping[str, Option]) -> Any:
    option = options.get(name)
    if option is None:
        raise OptionError(
            f"{name}: renderer {renderer} has no such option; expected one of {', '.join(options) or '(none)'}"
        )
    if type(value) is not option.type and not (option.type is float and type(value) is int):
        raise OptionError(f"{name}: expected {option.type.__name__}; got {value!r}")
    for one in cast("list[Any]", value) if option.type is list else (value,):
        if option.choices and one not in option.choices:
            raise OptionError(f"{name}: expected one of {', '.join(map(str, option.choices))}; got {one!r}")
    return value

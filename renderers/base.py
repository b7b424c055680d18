"""`Renderer`: what every renderer offers, and the loop that turns a block of conversations into one `RenderedBlock`."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import numpy.typing as npt

from .datum import to_datum
from .errors import DroppedError, InputError, OptionError, RefusedError
from .messages import Conversation, Message, ToolSpec, check_messages
from .parsing import Delta, Endings, ParseTermination, ResponseFormat, StreamParser, stream_response
from .parsing.formats import PLAIN
from .plan import Plan
from .rendered import (
    CONTROL_TOKEN_POLICIES,
    TURN_POLICIES,
    ControlTokens,
    Refusal,
    RenderedBlock,
    RenderedTokens,
    RenderSettings,
    TrainOnWhat,
    Turns,
)
from .tokenizer import Tokenizer
from .train_on import message_weights
from .types import Datum, ModelInput

if TYPE_CHECKING:
    from .extension import Extension

__all__ = ["Renderer", "SupervisedExample"]

SupervisedExample = tuple[ModelInput, npt.NDArray[np.float32]]
"""Tokens and one float32 weight per token, unshifted."""

Messages = Sequence[Message] | Sequence[Mapping[str, Any]]


class Renderer(ABC):
    """Messages to tokens and weights, the way one model's chat template writes them.

    Attributes:
        name: what `get_renderer` calls it.
        tokenizer: the model's tokenizer.
        options: the renderer's options with their values, as the manifest records them.
        template_hash: sha256 of the chat template this renderer reproduces, None when there is none.
    """

    name: str
    tokenizer: Tokenizer
    options: dict[str, Any]
    template_hash: str | None = None
    choice: str = ""
    """Why `get_renderer` took this renderer, in words."""
    arguments_as_text: bool = False
    """Whether tool-call arguments must be JSON text, not objects, for this template."""
    takes_parts: bool = False
    """Whether the template itself reads content given as parts; else text parts are joined before it sees them.

    Thinking parts become `reasoning_content` either way."""
    takes_images: bool = False
    """Whether image parts are written as images; a renderer that does not refuses them."""
    keeps_image_bytes: bool = True
    """Whether image chunks carry their bytes. Set to False where a reference is enough, as in shards: a block of many
    images then takes no memory for them, and only their files' heads are read."""
    response_format: ResponseFormat = PLAIN
    """How a sampled turn is written, so that `parse_response` can read it."""

    # -- to be written by each renderer

    @abstractmethod
    def write_conversation(
        self, plan: Plan, index: int, conversation: Conversation, weights: list[float], settings: RenderSettings
    ) -> None:
        """Write the examples of one conversation; raise `InputError` to refuse it."""

    @abstractmethod
    def write_prompt(self, plan: Plan, messages: Sequence[Message], tools: Sequence[ToolSpec] | None) -> None:
        """Write the prompt for the assistant's next turn."""

    @abstractmethod
    def get_stop_sequences(self) -> list[int] | list[str]:
        """Token ids (or, for base models, strings) that end a sampled turn."""

    @property
    @abstractmethod
    def has_extension_property(self) -> bool:
        """Whether each prompt of a conversation starts with the previous prompt and turn, whatever was said.

        Of conversations whose system messages come first, and turns that are written like their own prompt. Token for
        token, except where the turn's first characters melt with the prompt's last ones (a line break after a header
        that ends with one; white space that a control token swallows): rendering counts those as `header_merge`.
        """

    # -- many conversations

    def render_block(
        self, conversations: Sequence[Conversation], settings: RenderSettings | None = None
    ) -> RenderedBlock:
        """Render many conversations, encoding all their text in large batches.

        A conversation that cannot be rendered is a `Refusal` in the result; the others are not touched by it.

        Raises:
            ParityError: see `Tokenizer.encode_texts`.
        """
        settings = settings or RenderSettings()
        plan = Plan(self.tokenizer, settings.control_tokens)
        for index, conversation in enumerate(conversations):
            position = plan.position()
            plan.control_in_content = False
            try:
                weights = message_weights(conversation.messages, settings.train_on_what)
                self.write_conversation(plan, index, self._prepared(conversation), weights, settings)
            except InputError as error:
                plan.rewind(position)
                dropped = isinstance(error, DroppedError)
                plan.refusals.append(Refusal(index, None, error.field, error.reason, error.detail, dropped))
            else:
                plan.counts["control_token_in_content"] += plan.control_in_content
        return plan.encode()

    def _prepared(self, conversation: Conversation) -> Conversation:
        """The conversation as this renderer's template can express it."""
        messages = conversation.messages
        if any(type(message.get("content")) is list for message in messages):
            messages = [self._without_parts(message, i) for i, message in enumerate(messages)]
        if self.arguments_as_text:
            messages = [_with_text_arguments(message) for message in messages]
        if messages is conversation.messages:
            return conversation
        return Conversation(messages, conversation.tools, conversation.id, conversation.metadata)

    def _without_parts(self, message: Message, index: int) -> Message:
        """Text parts joined unless the template reads parts, thinking parts to `reasoning_content`."""
        content = message.get("content")
        if not isinstance(content, list):
            return message
        shown: list[Any] = []
        thoughts: list[str] = []
        for k, part in enumerate(content):
            kind = part.get("type")
            if kind == "thinking":
                thoughts.append(cast("Any", part)["thinking"])
            elif kind == "text" or (kind == "image" and self.takes_images):
                shown.append(part)
            else:
                raise RefusedError(
                    f"messages[{index}].content[{k}]",
                    "text_only",
                    f"expected text, as renderer {self.name} shows no {kind}",
                )
        kept = shown if self.takes_parts else "".join(part["text"] for part in shown)
        prepared: dict[str, Any] = {**message, "content": kept}
        if thoughts and "reasoning_content" not in message:
            prepared["reasoning_content"] = "".join(thoughts)
        return cast("Message", prepared)

    # -- one conversation

    def render(
        self,
        messages: Messages,
        train_on_what: TrainOnWhat | str = TrainOnWhat.ALL_ASSISTANT_MESSAGES,
        tools: Sequence[ToolSpec] | None = None,
        *,
        turns: Turns = "auto",
        control_tokens: ControlTokens = "text",
    ) -> list[RenderedTokens]:
        """All training examples of one conversation.

        Raises:
            InputError: the messages are faulty, or the template refuses them or one of their turns.
            OptionError: an unknown mode or policy.
        """
        settings = _settings(train_on_what, turns, control_tokens)
        check_messages(messages)
        conversation = Conversation(cast("list[Message]", list(messages)), list(tools) if tools is not None else None)
        block = self.render_block([conversation], settings)
        for refusal in block.refusals:
            raise RefusedError(refusal.field, refusal.reason, refusal.detail)
        return list(block)

    def build_supervised_example(
        self,
        messages: Messages,
        train_on_what: TrainOnWhat | str = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
        tools: Sequence[ToolSpec] | None = None,
        *,
        turns: Turns = "auto",
        control_tokens: ControlTokens = "text",
    ) -> SupervisedExample:
        """One training example of a conversation.

        Returns:
            tokens (n,) and weights float32 (n,), unshifted: `weights[i]` is the loss weight of token i as a target.

        Raises:
            InputError: also when the conversation needs several examples because its template rewrites history
                (`turns="single"` forces one, `build_supervised_examples` gives them all), or trains no token.

        >>> from renderers import get_renderer
        >>> renderer = get_renderer("chatml", "fixtures/tiny-chat")
        >>> chat = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}]
        >>> tokens, weights = renderer.build_supervised_example(chat)
        >>> renderer.tokenizer.decode([token for token, weight in zip(tokens.to_ints(), weights) if weight])
        'Hello!<|im_end|>'
        """
        examples = self.render(messages, train_on_what, tools, turns=turns, control_tokens=control_tokens)
        if len(examples) > 1:
            raise InputError(
                "messages",
                "several_examples",
                f"this conversation needs {len(examples)} examples, because the template shows its earlier turns "
                'differently later; use build_supervised_examples, or turns="single"',
            )
        if not examples or not examples[0].weights.any():
            raise InputError(
                "messages", "no_trained_tokens", f"expected something to train on with {str(train_on_what)!r}; got none"
            )
        return examples[0].to_model_input(), examples[0].weights

    def build_supervised_examples(
        self,
        messages: Messages,
        train_on_what: TrainOnWhat | str = TrainOnWhat.LAST_ASSISTANT_TURN,
        tools: Sequence[ToolSpec] | None = None,
        *,
        turns: Turns = "auto",
        control_tokens: ControlTokens = "text",
    ) -> list[SupervisedExample]:
        """All training examples of a conversation: one where the turns can share a sequence, else several."""
        examples = self.render(messages, train_on_what, tools, turns=turns, control_tokens=control_tokens)
        return [(example.to_model_input(), example.weights) for example in examples]

    def build_generation_prompt(
        self,
        messages: Messages,
        role: str = "assistant",
        prefill: str | None = None,
        tools: Sequence[ToolSpec] | None = None,
        *,
        control_tokens: ControlTokens = "text",
    ) -> ModelInput:
        """What the model reads before it speaks.

        Args:
            messages: the conversation so far.
            role: who speaks next; chat templates prompt for the assistant only.
            prefill: text the turn already starts with, encoded as what follows the prompt.
            tools: declarations shown to the model.

        Raises:
            InputError: the messages are faulty or the template refuses them.
            OptionError: a role that cannot be prompted for.

        >>> from renderers import get_renderer
        >>> renderer = get_renderer("chatml", "fixtures/tiny-chat")
        >>> prompt = renderer.build_generation_prompt([{"role": "user", "content": "Hi"}], prefill="Well,")
        >>> renderer.tokenizer.decode(prompt.to_ints())
        '<|im_start|>user\\nHi<|im_end|>\\n<|im_start|>assistant\\nWell,'
        """
        if role != "assistant":
            raise OptionError(f"role: {self.name} prompts for 'assistant'; got {role!r}")
        check_messages(messages)
        plan = Plan(self.tokenizer, _policy("control_tokens", control_tokens, CONTROL_TOKEN_POLICIES))
        conversation = self._prepared(Conversation(cast("list[Message]", list(messages))))
        self.write_prompt(plan, conversation.messages, tools)
        if prefill:
            plan.cut()
            plan.content(prefill)
        plan.end_example(0, -1)
        return plan.encode()[0].to_model_input()

    def to_datum(
        self,
        messages: Messages,
        train_on_what: TrainOnWhat | str = TrainOnWhat.LAST_ASSISTANT_MESSAGE,
        tools: Sequence[ToolSpec] | None = None,
        *,
        max_length: int | None = None,
        reduction: str = "none",
        turns: Turns = "auto",
    ) -> Datum:
        """One `Datum`, shifted: the example of `build_supervised_example` through `renderers.to_datum`."""
        model_input, weights = self.build_supervised_example(messages, train_on_what, tools, turns=turns)
        return to_datum(model_input, weights, max_length=max_length, reduction=reduction)  # type: ignore[arg-type]

    # -- what comes back

    def turn_stops(self) -> list[int] | list[str]:
        """The stop sequences that the template itself writes after a turn."""
        return self.get_stop_sequences()

    def stream_parser(
        self, *, prompt_tokens: Sequence[int] | None = None, tools: Sequence[ToolSpec] | None = None
    ) -> StreamParser:
        """A parser for one sampled turn, fed as tokens arrive.

        Args:
            prompt_tokens: the prompt that was sampled from; by default one of this renderer's own. Where it leaves a
                think block open, the turn starts with reasoning.
            tools: declarations, whose parameter types decide how bare values (XML and GLM arguments) are read.
        """
        prompt = self._own_prompt if prompt_tokens is None else prompt_tokens
        return StreamParser(self.response_format, self.tokenizer, self._endings, prompt, tools)

    def parse_response(
        self,
        tokens: Iterable[int],
        *,
        prompt_tokens: Sequence[int] | None = None,
        tools: Sequence[ToolSpec] | None = None,
    ) -> tuple[Message, ParseTermination]:
        """A sampled turn as a message, and how it ended; never raises on any ids.

        Args:
            tokens: what was sampled, with its stop token when it has one.
            prompt_tokens, tools: see `stream_parser`.

        Returns:
            The assistant's message: `content` without the white space that the template puts around it, and where
            there are any `reasoning_content`, `tool_calls` (arguments as objects) and
            `unparsed_tool_calls: [{"raw", "reason"}]`.

        >>> from renderers import get_renderer
        >>> renderer = get_renderer("chatml", "fixtures/tiny-chat")
        >>> renderer.parse_response(renderer.tokenizer.encode("Hello!<|im_end|>"))[0]
        {'role': 'assistant', 'content': 'Hello!'}
        """
        parser = self.stream_parser(prompt_tokens=prompt_tokens, tools=tools)
        parser.feed(tokens)
        return parser.finish()

    def parse_response_streaming(
        self,
        tokens: Iterable[int],
        *,
        prompt_tokens: Sequence[int] | None = None,
        tools: Sequence[ToolSpec] | None = None,
    ) -> Iterator[Delta]:
        """Deltas as `tokens` arrive, and a `ResponseEnd` with message and termination last.

        >>> from renderers import get_renderer
        >>> renderer = get_renderer("chatml", "fixtures/tiny-chat")
        >>> sampled = renderer.tokenizer.encode("Hello!<|im_end|>")
        >>> [type(delta).__name__ for delta in renderer.parse_response_streaming(sampled)][-2:]
        ['TextDelta', 'ResponseEnd']
        """
        return stream_response(self.stream_parser(prompt_tokens=prompt_tokens, tools=tools), tokens)

    def extend(
        self,
        prompt_tokens: Sequence[int],
        completion_tokens: Sequence[int],
        new_messages: Messages,
        tools: Sequence[ToolSpec] | None = None,
        *,
        messages: Messages | None = None,
    ) -> Extension:
        """The next prompt of a conversation without rendering again what was sampled: see `renderers.extension`.

        >>> from renderers import get_renderer
        >>> renderer = get_renderer("chatml", "fixtures/tiny-chat")
        >>> prompt = renderer.build_generation_prompt([{"role": "user", "content": "Hi"}]).to_ints()
        >>> found = renderer.extend(prompt, renderer.tokenizer.encode("Yes?"), [{"role": "user", "content": "Go"}])
        >>> renderer.tokenizer.decode(found.tokens[len(prompt) :])
        'Yes?<|im_end|>\\n<|im_start|>user\\nGo<|im_end|>\\n<|im_start|>assistant\\n'
        """
        from .extension import extend

        return extend(self, prompt_tokens, completion_tokens, new_messages, tools, messages=messages)

    @cached_property
    def _own_prompt(self) -> list[int]:
        try:
            return self.build_generation_prompt([{"role": "user", "content": "Hello"}]).to_ints()
        except InputError:
            return []  # a template that wants more than this: nothing is known about its prompts' end

    @cached_property
    def _endings(self) -> Endings:
        return Endings.of(self.tokenizer, self.turn_stops())


def _policy(name: str, value: Any, allowed: tuple[Any, ...]) -> Any:
    if value not in allowed:
        raise OptionError(f"{name}: expected one of {', '.join(allowed)}; got {value!r}")
    return value


def _settings(train_on_what: TrainOnWhat | str, turns: Turns, control_tokens: ControlTokens) -> RenderSettings:
    mode = _policy("train_on_what", train_on_what, tuple(TrainOnWhat))
    return RenderSettings(
        TrainOnWhat(mode),
        _policy("turns", turns, TURN_POLICIES),
        _policy("control_tokens", control_tokens, CONTROL_TOKEN_POLICIES),
    )


def _with_text_arguments(message: Message) -> Message:
    import json

    calls = message.get("tool_calls")
    if not calls:
        return message
    texts: list[Any] = []
    for call in calls:
        function = call["function"]
        arguments = function["arguments"]
        if not isinstance(arguments, str):
            function = {**function, "arguments": json.dumps(arguments, ensure_ascii=False)}
        texts.append({**call, "function": function})
    return cast("Message", {**message, "tool_calls": texts})

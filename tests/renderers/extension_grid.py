"""Every sampled turn of a seeded grid of conversations, and what the next prompt makes of it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from renderers import Conversation, InputError, Renderer, RenderSettings
from renderers.stretches import starts_with, stretches
from tests.renderers.parity_cases import CASES, conversations
from tests.renderers.parsing.renderers_at_hand import turns

__all__ = ["Step", "steps"]

Messages = list[dict[str, Any]]


@dataclass
class Step:
    """One assistant turn and what follows it.

    Attributes:
        before: the messages of its prompt.
        turn: the assistant's message.
        new: the messages up to the next assistant turn.
        tools: declarations.
        prompt, completion: tokens, as the renderer writes them.
        next: the next prompt, rendered in full; None when it is refused.
        merged: the turn's first characters melt with the prompt's last ones.
    """

    case: str
    before: Messages
    turn: dict[str, Any]
    new: Messages
    tools: Any
    prompt: list[int]
    completion: list[int]
    next: list[int] | None
    merged: bool

    @property
    def sampled(self) -> list[int]:
        return self.prompt + self.completion

    @property
    def in_tokens(self) -> bool:
        """The next prompt starts with prompt and completion, token for token."""
        return self.next is not None and self.next[: len(self.sampled)] == self.sampled

    def in_text(self, renderer: Renderer) -> bool:
        """The next prompt starts by saying what prompt and completion say."""
        if self.next is None:
            return False
        whole, start = (stretches(renderer.tokenizer, tokens).items for tokens in (self.next, self.sampled))
        return starts_with(whole, start)


def steps(renderer: Renderer, count: int, seed: int = 5) -> Iterator[Step]:
    """Steps of `count` conversations of each kind; system messages come first in them."""
    for case in CASES:
        for messages, tools in conversations(case, count, seed):
            yield from _steps_of(renderer, case, messages, tools)


def _steps_of(renderer: Renderer, case: str, messages: Messages, tools: Any) -> Iterator[Step]:
    for i, prompt, completion in turns(renderer, messages, tools):
        end = i + 1
        while end < len(messages) and messages[end]["role"] != "assistant":
            end += 1
        new = messages[i + 1 : end]
        if not new or any(message["role"] in ("system", "developer") for message in messages[1:end]):
            continue
        try:
            following = renderer.build_generation_prompt(messages[:end], tools=tools).to_ints()
        except InputError:
            following = None
        merged = _merged(renderer, messages[: i + 1], tools)
        yield Step(case, messages[:i], messages[i], new, tools, prompt, completion, following, merged)


def _merged(renderer: Renderer, messages: Messages, tools: Any) -> bool:
    settings = RenderSettings(train_on_what="last_assistant_message", turns="split")  # type: ignore[arg-type]
    return renderer.render_block([Conversation(messages, tools)], settings).counts["header_merge"] > 0  # type: ignore[arg-type]

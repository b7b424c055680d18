"""What rendering gives: many examples in flat numpy columns, and what could not be rendered and why."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, NamedTuple

import numpy as np
import numpy.typing as npt

from .types import Chunk, EncodedTextChunk, ImageChunk, ModelInput

__all__ = [
    "CONTROL_TOKEN_POLICIES",
    "TURN_POLICIES",
    "ControlTokens",
    "Refusal",
    "RenderSettings",
    "RenderedBlock",
    "RenderedTokens",
    "TrainOnWhat",
    "Turns",
]


class TrainOnWhat(StrEnum):
    """Which tokens get a weight. Names and meaning are tinker-cookbook's.

    Trained assistant output includes the turn's stop token and never the role header.
    """

    LAST_ASSISTANT_MESSAGE = "last_assistant_message"
    LAST_ASSISTANT_TURN = "last_assistant_turn"
    ALL_ASSISTANT_MESSAGES = "all_assistant_messages"
    ALL_MESSAGES = "all_messages"
    ALL_TOKENS = "all_tokens"
    ALL_USER_AND_SYSTEM_MESSAGES = "all_user_and_system_messages"
    CUSTOMIZED = "customized"


Turns = Literal["auto", "single", "split", "drop"]
"""How the trained turns of one conversation become examples.

auto: share a sequence while every trained turn keeps exactly the prompt that sampling shows, else a new example.
single: one sequence of the whole conversation, whatever the template rewrites in its history.
split: one example per trained turn.
drop: conversations that `auto` would split are dropped and counted.
"""
TURN_POLICIES: tuple[Turns, ...] = ("auto", "single", "split", "drop")

ControlTokens = Literal["text", "parse", "reject"]
"""What a control token typed inside content becomes: plain text, the control token itself, or a refusal."""
CONTROL_TOKEN_POLICIES: tuple[ControlTokens, ...] = ("text", "parse", "reject")


@dataclass(frozen=True, slots=True)
class RenderSettings:
    """How a block of conversations is rendered; part of the shard manifest."""

    train_on_what: TrainOnWhat = TrainOnWhat.ALL_ASSISTANT_MESSAGES
    turns: Turns = "auto"
    control_tokens: ControlTokens = "text"


class Refusal(NamedTuple):
    """A conversation, or one turn of it, that was not rendered.

    Attributes:
        conversation: index into the block's conversations.
        turn: message index when only that trained turn is lost, None when the whole conversation is.
        field: path such as `messages[3].content`.
        reason: stable code for counting.
        detail: the sentence for a person.
        dropped: a policy that the user chose left it out; the data are not at fault.
    """

    conversation: int
    turn: int | None
    field: str
    reason: str
    detail: str
    dropped: bool = False


@dataclass(slots=True)
class RenderedTokens:
    """One rendered sequence, unshifted.

    Attributes:
        tokens: int32 (n,).
        weights: float32 (n,), the loss weight of each token as a target.
        message_index: int32 (n,), the message a token belongs to; -1 for template text of no message.
        images: position and chunk of each image, in order; `tokens` and `weights` are 0 at its positions.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    message_index: npt.NDArray[np.int32]
    images: list[tuple[int, ImageChunk]] = field(default_factory=list[tuple[int, ImageChunk]])

    def to_model_input(self) -> ModelInput:
        """Text chunks and images in order."""
        if not self.images:
            return ModelInput.from_ints(self.tokens)
        chunks: list[Chunk] = []
        done = 0
        for position, chunk in self.images:
            if position > done:
                chunks.append(EncodedTextChunk(self.tokens[done:position]))
            chunks.append(chunk)
            done = position + chunk.length
        if done < len(self.tokens):
            chunks.append(EncodedTextChunk(self.tokens[done:]))
        return ModelInput(chunks)


@dataclass(slots=True)
class RenderedBlock:
    """All examples of a block of conversations, unshifted, in input order.

    Attributes:
        tokens: int32 (total,), all examples one after another.
        weights: float32 (total,).
        offsets: int64 (num_examples + 1,), where each example starts in `tokens`.
        run_starts: int32 (num_runs,), position inside its example where a run of one message's tokens starts.
        run_messages: int16 (num_runs,), message index of the run, -1 for template text of no message.
        run_offsets: int64 (num_examples + 1,), where each example's runs start.
        conversation: int32 (num_examples,), index into the block's conversations.
        turn: int16 (num_examples,), message index of the last trained turn; -1 when the example holds the
            conversation whole.
        refusals: what was not rendered.
        counts: events by name (`control_token_in_content`, `turns_split`, `header_merge`, …).
        images: example, position in it and chunk of each image, in order.
    """

    tokens: npt.NDArray[np.int32]
    weights: npt.NDArray[np.float32]
    offsets: npt.NDArray[np.int64]
    run_starts: npt.NDArray[np.int32]
    run_messages: npt.NDArray[np.int16]
    run_offsets: npt.NDArray[np.int64]
    conversation: npt.NDArray[np.int32]
    turn: npt.NDArray[np.int16]
    refusals: list[Refusal] = field(default_factory=list[Refusal])
    counts: Counter[str] = field(default_factory=Counter[str])
    images: list[tuple[int, int, ImageChunk]] = field(default_factory=list[tuple[int, int, ImageChunk]])

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, index: int) -> RenderedTokens:
        start, stop = int(self.offsets[index]), int(self.offsets[index + 1])
        runs = slice(int(self.run_offsets[index]), int(self.run_offsets[index + 1]))
        lengths = np.diff(np.append(self.run_starts[runs], stop - start))
        return RenderedTokens(
            tokens=self.tokens[start:stop],
            weights=self.weights[start:stop],
            message_index=np.repeat(self.run_messages[runs].astype(np.int32), lengths),
            images=self._images_of(index) if self.images else [],
        )

    def _images_of(self, index: int) -> list[tuple[int, ImageChunk]]:
        first = bisect_left(self.images, index, key=_example_of)
        stop = bisect_left(self.images, index + 1, first, key=_example_of)
        return [(position, chunk) for _, position, chunk in self.images[first:stop]]

    def __iter__(self) -> Iterator[RenderedTokens]:
        return (self[i] for i in range(len(self)))


def _example_of(image: tuple[int, int, ImageChunk]) -> int:
    return image[0]

"""`max_length`: what becomes of examples with more tokens, one function per policy.

drop: left out.
keep-start: the end is cut off; where that cuts a trained turn's stop token away, `cut_stop_token` counts it.
keep-end: the start is cut off, system message and all; `cut_turn_start` counts trained turns that lose their start.
drop-oldest-turns: rendered again without the oldest exchanges (a user message and all up to the next) after the
    system messages, as many as needed; what these exchanges would have trained is not trained.
split: several examples, cut before user messages where that fits, else before any message; a message that does not
    fit alone is left out.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple, cast

import numpy as np
import numpy.typing as npt

from renderers import Conversation, Message, RenderedBlock, Renderer

from .spec import LengthPolicy, RenderSpec
from .windows import Windows, join_blocks, take_windows, whole_windows

__all__ = ["Fitted", "Loss", "fit_lengths"]


class Loss(NamedTuple):
    """What a policy leaves out of a conversation; `message` is None when it is not one message."""

    conversation: int
    message: int | None
    reason: str
    detail: str


@dataclass(slots=True)
class Fitted:
    """A block whose examples all fit, what was left out, and how often something was cut."""

    rendered: RenderedBlock
    losses: list[Loss] = field(default_factory=list[Loss])
    events: Counter[str] = field(default_factory=Counter[str])


class _Work(NamedTuple):
    rendered: RenderedBlock
    long: npt.NDArray[np.bool_]  # (num_examples,)
    limit: int
    conversations: Sequence[Conversation]
    renderer: Renderer
    spec: RenderSpec

    def too_long(self, example: int, more: str = "") -> Loss:
        length = int(self.rendered.offsets[example + 1] - self.rendered.offsets[example])
        turn = int(self.rendered.turn[example])
        detail = f"expected at most {self.limit} tokens; got {length}{more}"
        return Loss(int(self.rendered.conversation[example]), None if turn < 0 else turn, "too_long", detail)


def fit_lengths(
    rendered: RenderedBlock, conversations: Sequence[Conversation], renderer: Renderer, spec: RenderSpec
) -> Fitted:
    """Apply `spec.max_length`; the block itself when nothing in it is too long.

    Raises:
        ParityError: see `Tokenizer.encode_texts`; only where conversations are rendered again.
    """
    if spec.max_length is None:
        return Fitted(rendered)
    long = np.diff(rendered.offsets) > spec.max_length
    if not long.any():
        return Fitted(rendered)
    return _POLICIES[spec.max_length_policy](_Work(rendered, long, spec.max_length, conversations, renderer, spec))


def _drop(work: _Work) -> Fitted:
    losses = [work.too_long(example) for example in np.flatnonzero(work.long).tolist()]
    return Fitted(take_windows(work.rendered, whole_windows(work.rendered, ~work.long)), losses)


def _keep_start(work: _Work) -> Fitted:
    lengths = np.diff(work.rendered.offsets)
    stops = np.minimum(lengths, work.limit)
    windows = Windows(np.arange(len(lengths)), np.zeros(len(lengths), np.int64), stops)
    cut = sum(_inside_turn(work.rendered, i, work.limit) for i in np.flatnonzero(work.long).tolist())
    events = Counter({"cut_keep_start": int(work.long.sum()), "cut_stop_token": cut})
    return Fitted(take_windows(work.rendered, windows), [], events)


def _keep_end(work: _Work) -> Fitted:
    lengths = np.diff(work.rendered.offsets)
    starts = np.maximum(lengths - work.limit, 0)
    windows = Windows(np.arange(len(lengths)), starts, lengths)
    cut = sum(_inside_turn(work.rendered, i, int(starts[i])) for i in np.flatnonzero(work.long).tolist())
    events = Counter({"cut_keep_end": int(work.long.sum()), "cut_turn_start": cut})
    return Fitted(take_windows(work.rendered, windows), [], events)


def _inside_turn(rendered: RenderedBlock, index: int, position: int) -> bool:
    """Whether a cut before `position` falls between two trained tokens of one message."""
    example = rendered[index]
    around = slice(position - 1, position + 1)
    messages = example.message_index[around]
    return bool(example.weights[around].all()) and messages[0] == messages[1]


# -- split


def _split(work: _Work) -> Fitted:
    pieces: list[tuple[int, int, int]] = []
    losses: list[Loss] = []
    lengths = np.diff(work.rendered.offsets).tolist()
    for example, (long, length) in enumerate(zip(work.long.tolist(), lengths, strict=True)):
        if not long:
            pieces.append((example, 0, length))
            continue
        starts, messages = _message_starts(work.rendered, example)
        conversation = int(work.rendered.conversation[example])
        roles = [work.conversations[conversation].messages[m]["role"] if m >= 0 else "" for m in messages]
        spans, lost = split_points([*starts, length], [role == "user" for role in roles], work.limit)
        pieces += [(example, start, stop) for start, stop in spans]
        for i in lost:
            size = [*starts, length][i + 1] - starts[i]
            detail = f"expected a message of at most {work.limit} tokens; got {size}"
            losses.append(Loss(conversation, messages[i] if messages[i] >= 0 else None, "message_too_long", detail))
    table = np.array(pieces, np.int64).reshape(-1, 3)
    windows = Windows(table[:, 0], table[:, 1], table[:, 2])
    return Fitted(take_windows(work.rendered, windows), losses, Counter(split_by_length=int(work.long.sum())))


def split_points(edges: Sequence[int], opens: Sequence[bool], limit: int) -> tuple[list[tuple[int, int]], list[int]]:
    """Cut a sequence into pieces of at most `limit`, as long as possible, at the edges of its messages.

    Args:
        edges: where each message starts, and the end; m + 1 positions.
        opens: for each message whether it opens an exchange: the better place for a cut.
        limit: in tokens.

    Returns:
        Pieces as (start, stop), and the numbers of messages that are longer than the limit, which are in no piece.

    >>> split_points([0, 3, 6, 9, 12], [True, False, True, False], 10)
    ([(0, 6), (6, 12)], [])
    """
    pieces: list[tuple[int, int]] = []
    lost: list[int] = []
    first, last = 0, len(edges) - 1
    while first < last:
        stop = first
        while stop < last and edges[stop + 1] - edges[first] <= limit:
            stop += 1
        if stop == first:
            lost.append(first)
            first += 1
            continue
        if stop < last:
            stop = next((k for k in range(stop, first, -1) if opens[k]), stop)
        pieces.append((edges[first], edges[stop]))
        first = stop
    return pieces, lost


def _message_starts(rendered: RenderedBlock, example: int) -> tuple[list[int], list[int]]:
    """Where messages start in an example, and which; template text of no message goes with what is before it."""
    runs = slice(int(rendered.run_offsets[example]), int(rendered.run_offsets[example + 1]))
    starts, messages = [0], [-1]
    for start, message in zip(rendered.run_starts[runs].tolist(), rendered.run_messages[runs].tolist(), strict=True):
        if messages == [-1]:  # what stands before the first message (BOS) goes with it
            messages[0] = message
        elif message >= 0 and message != messages[-1]:
            starts.append(start)
            messages.append(message)
    return starts, messages


# -- drop-oldest-turns


@dataclass(slots=True)
class _Shortened:
    """An example that is too long, as the conversation it shows, and how many exchanges go."""

    example: int
    conversation: Conversation  # up to the example's last message, training what the example trains
    head: int  # messages that stay: the system's
    starts: list[int]  # where each exchange starts
    dropped: int

    def candidate(self) -> Conversation:
        whole = self.conversation
        messages = [*whole.messages[: self.head], *whole.messages[self.starts[self.dropped] :]]
        return Conversation(messages, whole.tools, whole.id, whole.metadata)

    def original(self, message: int) -> int:
        """The message's number before anything was dropped."""
        return message if message < self.head else message - self.head + self.starts[self.dropped]


def _drop_oldest_turns(work: _Work) -> Fitted:
    losses: list[Loss] = []
    waiting: list[_Shortened] = []
    for example in np.flatnonzero(work.long).tolist():
        shortened = _shortened(work, example)
        if len(shortened.starts) > 1:
            waiting.append(shortened)
        else:
            losses.append(work.too_long(example, " in one exchange"))
    result, order = work.rendered, [(i, -1) for i in range(len(work.long))]
    events = Counter[str]()
    while waiting:
        again = work.renderer.render_block([shortened.candidate() for shortened in waiting], work.spec.settings)
        waiting, fitting, number = _sort_out(work, again, waiting, losses)
        events["oldest_turns_dropped"] += number
        result = join_blocks(result, fitting[0])
        order += fitting[1]
    kept = [k for k in range(len(order)) if k >= len(work.long) or not work.long[k]]
    kept.sort(key=order.__getitem__)
    lengths = np.diff(result.offsets)[kept]
    windows = Windows(np.array(kept, np.int64), np.zeros(len(kept), np.int64), lengths)
    losses.sort(key=lambda loss: (loss.conversation, -1 if loss.message is None else loss.message))
    return Fitted(take_windows(result, windows), losses, events)


def _shortened(work: _Work, example: int) -> _Shortened:
    rendered, index = work.rendered, int(work.rendered.conversation[example])
    conversation, turn = work.conversations[index], int(work.rendered.turn[example])
    shown = rendered[example]
    trained = set(shown.message_index[shown.weights != 0].tolist())
    messages = [
        message if i in trained else cast("Message", {**message, "trainable": False})
        for i, message in enumerate(conversation.messages if turn < 0 else conversation.messages[: turn + 1])
    ]
    roles = [message["role"] for message in messages]
    head = next((i for i, role in enumerate(roles) if role not in ("system", "developer")), len(roles))
    starts = [i for i in range(head, len(roles)) if i == head or roles[i] == "user"]
    # Most templates write each message by itself, so its tokens are what leaving it out saves.
    lengths = np.bincount(shown.message_index[shown.message_index >= 0], minlength=len(roles))
    excess = len(shown.tokens) - work.limit
    dropped = next(
        (k for k in range(1, len(starts)) if lengths[head : starts[k]].sum() >= excess), max(len(starts) - 1, 0)
    )
    whole = Conversation(messages, conversation.tools, conversation.id, conversation.metadata)
    return _Shortened(example, whole, head, starts, dropped)


def _sort_out(
    work: _Work, again: RenderedBlock, tried: list[_Shortened], losses: list[Loss]
) -> tuple[list[_Shortened], tuple[RenderedBlock, list[tuple[int, int]]], int]:
    """Who has to drop one exchange more, the examples that fit and their places, and how many conversations fit."""
    waiting: list[_Shortened] = []
    keep = np.zeros(len(again), np.bool_)
    order: list[tuple[int, int]] = []
    lengths = np.diff(again.offsets)
    number = 0
    refused = {refusal.conversation for refusal in again.refusals}
    bounds = np.searchsorted(again.conversation, np.arange(len(tried) + 1))
    for i, shortened in enumerate(tried):
        mine = slice(int(bounds[i]), int(bounds[i + 1]))
        if i not in refused and mine.stop > mine.start and (lengths[mine] <= work.limit).all():
            number += 1
            keep[mine] = True
            order += [(shortened.example, k) for k in range(mine.stop - mine.start)]
            _restore_numbers(again, mine, shortened, int(work.rendered.conversation[shortened.example]))
        elif shortened.dropped + 1 < len(shortened.starts):
            shortened.dropped += 1
            waiting.append(shortened)
        else:
            losses.append(work.too_long(shortened.example, ", and too many without all exchanges but the last"))
    return waiting, (take_windows(again, whole_windows(again, keep)), order), number


def _restore_numbers(again: RenderedBlock, mine: slice, shortened: _Shortened, conversation: int) -> None:
    """Conversation and messages of examples rendered again, as they are numbered in the block."""
    again.conversation[mine] = conversation
    runs = slice(int(again.run_offsets[mine.start]), int(again.run_offsets[mine.stop]))
    for k in range(runs.start, runs.stop):
        message = int(again.run_messages[k])
        again.run_messages[k] = shortened.original(message) if message >= 0 else -1
    for k in range(mine.start, mine.stop):
        turn = int(again.turn[k])
        last = len(shortened.candidate().messages) - 1
        again.turn[k] = shortened.original(turn if turn >= 0 else last)


_POLICIES: dict[LengthPolicy, Callable[[Any], Fitted]] = {
    "drop": _drop,
    "drop-oldest-turns": _drop_oldest_turns,
    "keep-end": _keep_end,
    "keep-start": _keep_start,
    "split": _split,
}

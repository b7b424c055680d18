"""`drop-oldest-turns`: conversations that are too long, rendered again without their oldest exchanges."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import cast

import numpy as np

from renderers import Conversation, Message, RenderedBlock

from .overlong import Fitted, Loss, Overlong
from .windows import Windows, join_blocks, take_windows, whole_windows

__all__ = ["drop_oldest_turns"]


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


def drop_oldest_turns(work: Overlong) -> Fitted:
    """Drop as few exchanges as make each example fit; only the examples that are too long are rendered again."""
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


def _shortened(work: Overlong, example: int) -> _Shortened:
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
    work: Overlong, again: RenderedBlock, tried: list[_Shortened], losses: list[Loss]
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

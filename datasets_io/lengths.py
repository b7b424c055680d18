"""`max_length`: what becomes of examples with more tokens, one function per policy.

drop: left out.
keep-start: the end is cut off; where that cuts a trained turn's stop token away, `cut_stop_token` counts it.
keep-end: the start is cut off, system message and all; `cut_turn_start` counts trained turns that lose their start.
drop-oldest-turns: rendered again without the oldest exchanges (a user message and all up to the next) after the
    system messages, as many as needed; what these exchanges would have trained is not trained.
split: several examples, cut before user messages where that fits, else before any message; a message that does not
    fit alone is left out.

No policy cuts through an image: the cut moves to where the image is left out whole.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence, Set

import numpy as np

from renderers import Conversation, RenderedBlock, Renderer

from .block_images import around_images
from .overlong import Fitted, Loss, Overlong
from .shorten import drop_oldest_turns
from .spec import LengthPolicy, RenderSpec
from .windows import Windows, take_windows, whole_windows

__all__ = ["fit_lengths", "split_points"]

_CLOSING_TOKENS = 4


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
    return _POLICIES[spec.max_length_policy](Overlong(rendered, long, spec.max_length, conversations, renderer, spec))


def _drop(work: Overlong) -> Fitted:
    losses = [work.too_long(example) for example in np.flatnonzero(work.long).tolist()]
    return Fitted(take_windows(work.rendered, whole_windows(work.rendered, ~work.long)), losses)


def _keep_start(work: Overlong) -> Fitted:
    lengths = np.diff(work.rendered.offsets)
    stops = around_images(work.rendered, np.minimum(lengths, work.limit), keep="start")
    windows = Windows(np.arange(len(lengths)), np.zeros(len(lengths), np.int64), stops)
    cut = sum(_inside_turn(work.rendered, i, int(stops[i])) for i in np.flatnonzero(work.long).tolist())
    events = Counter({"cut_keep_start": int(work.long.sum()), "cut_stop_token": cut})
    return Fitted(take_windows(work.rendered, windows), [], events)


def _keep_end(work: Overlong) -> Fitted:
    lengths = np.diff(work.rendered.offsets)
    starts = around_images(work.rendered, np.maximum(lengths - work.limit, 0), keep="end")
    windows = Windows(np.arange(len(lengths)), starts, lengths)
    cut = sum(_inside_turn(work.rendered, i, int(starts[i])) for i in np.flatnonzero(work.long).tolist())
    events = Counter({"cut_keep_end": int(work.long.sum()), "cut_turn_start": cut})
    return Fitted(take_windows(work.rendered, windows), [], events)


def _inside_turn(rendered: RenderedBlock, index: int, position: int) -> bool:
    """Whether a cut before `position` falls between two trained tokens of one message."""
    example = rendered[index]
    around = slice(max(position - 1, 0), position + 1)
    messages = example.message_index[around]
    return len(messages) == 2 and bool(example.weights[around].all()) and messages[0] == messages[1]


# -- split


def _split(work: Overlong) -> Fitted:
    pieces: list[tuple[int, int, int]] = []
    losses: list[Loss] = []
    lengths = np.diff(work.rendered.offsets).tolist()
    for example, (long, length) in enumerate(zip(work.long.tolist(), lengths, strict=True)):
        if not long:
            pieces.append((example, 0, length))
            continue
        starts, messages = _message_starts(work.rendered, example, work.renderer.tokenizer.control_ids)
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


def _message_starts(rendered: RenderedBlock, example: int, controls: Set[int]) -> tuple[list[int], list[int]]:
    """Where messages start in an example, and which; template text of no message goes with what is before it."""
    runs = slice(int(rendered.run_offsets[example]), int(rendered.run_offsets[example + 1]))
    shown = rendered[example]
    starts, messages = [0], [-1]
    for start, message in zip(rendered.run_starts[runs].tolist(), rendered.run_messages[runs].tolist(), strict=True):
        if messages == [-1]:  # what stands before the first message (BOS) goes with it
            messages[0] = message
        elif message >= 0 and message != messages[-1]:
            # A line break that closes a trained turn after its stop token may be counted to the next message.
            ahead = shown.tokens[start : start + _CLOSING_TOKENS].tolist() if shown.weights[start - 1] else []
            starts.append(start + next((k for k, token in enumerate(ahead) if token in controls), 0))
            messages.append(message)
    return starts, messages


_POLICIES: dict[LengthPolicy, Callable[[Overlong], Fitted]] = {
    "drop": _drop,
    "drop-oldest-turns": drop_oldest_turns,
    "keep-end": _keep_end,
    "keep-start": _keep_start,
    "split": _split,
}

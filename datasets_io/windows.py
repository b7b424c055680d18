"""Choosing, cutting and joining the examples of rendered blocks, in numpy."""

from __future__ import annotations

from collections import Counter
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from renderers import Refusal, RenderedBlock

from .block_images import joined_images, kept_images

__all__ = ["Windows", "join_blocks", "take_windows", "trained_counts", "whole_windows"]


class Windows(NamedTuple):
    """Parts of examples: `example` (k,), and `start` and `stop` (k,), positions inside that example; all int64."""

    example: npt.NDArray[np.int64]
    start: npt.NDArray[np.int64]
    stop: npt.NDArray[np.int64]


def whole_windows(rendered: RenderedBlock, keep: npt.NDArray[np.bool_]) -> Windows:
    """Whole examples where `keep` (num_examples,) is True."""
    example = np.flatnonzero(keep)
    return Windows(example, np.zeros(len(example), np.int64), np.diff(rendered.offsets)[example])


def trained_counts(rendered: RenderedBlock) -> npt.NDArray[np.int64]:
    """Trained tokens of each example as they count after the shift (its first token is no target): (num_examples,)."""
    trained = np.flatnonzero(rendered.weights)
    starts, stops = rendered.offsets[:-1], rendered.offsets[1:]
    first = np.minimum(starts + 1, stops)
    return np.searchsorted(trained, stops) - np.searchsorted(trained, first)


def take_windows(rendered: RenderedBlock, windows: Windows) -> RenderedBlock:
    """The block of these parts, in their order.

    `turn` of a part that leaves out something becomes its last trained message. Refusals and counts are kept. No part
    may begin or end inside an image.
    """
    lengths = windows.stop - windows.start
    first = rendered.offsets[windows.example] + windows.start
    offsets = _offsets(lengths)
    gather = _ramps(first, lengths)
    run_counts = np.diff(rendered.run_offsets)[windows.example]
    runs = _ramps(rendered.run_offsets[windows.example], run_counts)
    of_window = np.repeat(np.arange(len(lengths)), run_counts)
    starts = rendered.run_starts[runs].astype(np.int64)
    stops = _run_stops(rendered)[runs]
    inside = (stops > windows.start[of_window]) & (starts < windows.stop[of_window])
    kept_starts = np.maximum(starts[inside] - windows.start[of_window[inside]], 0)
    taken = RenderedBlock(
        tokens=rendered.tokens[gather],
        weights=rendered.weights[gather],
        offsets=offsets,
        run_starts=kept_starts.astype(np.int32),
        run_messages=rendered.run_messages[runs][inside],
        run_offsets=_offsets(np.bincount(of_window[inside], minlength=len(lengths))),
        conversation=rendered.conversation[windows.example],
        turn=rendered.turn[windows.example].copy(),
        refusals=rendered.refusals,
        counts=rendered.counts,
        images=kept_images(rendered.images, *windows),
    )
    for i in np.flatnonzero(lengths != np.diff(rendered.offsets)[windows.example]).tolist():
        taken.turn[i] = _last_trained_message(taken, i)
    return taken


def join_blocks(first: RenderedBlock, second: RenderedBlock) -> RenderedBlock:
    """The examples of both, one after another; refusals and counts are those of `first`."""
    return RenderedBlock(
        tokens=np.concatenate([first.tokens, second.tokens]),
        weights=np.concatenate([first.weights, second.weights]),
        offsets=np.concatenate([first.offsets, second.offsets[1:] + first.offsets[-1]]),
        run_starts=np.concatenate([first.run_starts, second.run_starts]),
        run_messages=np.concatenate([first.run_messages, second.run_messages]),
        run_offsets=np.concatenate([first.run_offsets, second.run_offsets[1:] + first.run_offsets[-1]]),
        conversation=np.concatenate([first.conversation, second.conversation]),
        turn=np.concatenate([first.turn, second.turn]),
        refusals=list[Refusal](first.refusals),
        counts=Counter(first.counts),
        images=joined_images(first.images, second.images, len(first)),
    )


def _last_trained_message(block: RenderedBlock, index: int) -> int:
    example = block[index]
    trained = np.flatnonzero(example.weights)
    return int(example.message_index[trained[-1]]) if len(trained) else -1


def _run_stops(block: RenderedBlock) -> npt.NDArray[np.int64]:
    """Where each run ends inside its example: where the next starts, or the example's end."""
    stops = np.append(block.run_starts[1:], 0).astype(np.int64)
    has_runs = np.diff(block.run_offsets) > 0
    stops[block.run_offsets[1:][has_runs] - 1] = np.diff(block.offsets)[has_runs]
    return stops


def _offsets(lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([np.zeros(1, np.int64), np.cumsum(lengths, dtype=np.int64)])


def _ramps(first: npt.NDArray[np.int64], lengths: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """first[0], first[0] + 1, … (lengths[0] of them), first[1], …"""
    ends = np.cumsum(lengths)
    total = int(ends[-1]) if len(ends) else 0
    return np.arange(total, dtype=np.int64) + np.repeat(first - (ends - lengths), lengths)

"""Cutting and joining rendered blocks, against slicing one example at a time."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io.windows import Windows, join_blocks, take_windows, trained_counts, whole_windows
from renderers import Conversation, RenderedBlock, RenderedTokens, get_renderer
from tests.datasets_io.build_samples import MODEL, chat

ROWS = [
    chat("Hi", "Hello"),
    chat("One", "Two three", "Four", "Five six seven", system="Be brief."),
    chat("What?", "That.", "Why?", "Because of this and that."),
]


def block() -> RenderedBlock:
    return get_renderer(MODEL).render_block([Conversation(row["messages"]) for row in ROWS])


BLOCK = block()
LENGTHS = np.diff(BLOCK.offsets).tolist()


def parts(example: RenderedTokens) -> list[list[float]]:
    return [example.tokens.tolist(), example.weights.tolist(), example.message_index.tolist()]


@st.composite
def windows(draw: st.DrawFn) -> list[tuple[int, int, int]]:
    chosen = draw(st.lists(st.integers(0, len(LENGTHS) - 1), max_size=6))
    spans = [sorted((draw(st.integers(0, LENGTHS[i])), draw(st.integers(0, LENGTHS[i])))) for i in chosen]
    return [(i, start, stop) for i, (start, stop) in zip(chosen, spans, strict=True)]


@settings(derandomize=True, deadline=None, max_examples=100)
@given(windows())
def test_windows_are_slices(chosen: list[tuple[int, int, int]]) -> None:
    table = np.array(chosen, np.int64).reshape(-1, 3)
    taken = take_windows(BLOCK, Windows(table[:, 0], table[:, 1], table[:, 2]))
    assert len(taken) == len(chosen)
    for k, (i, start, stop) in enumerate(chosen):
        expected = [column[start:stop] for column in parts(BLOCK[i])]
        assert parts(taken[k]) == expected
        assert taken.conversation[k] == BLOCK.conversation[i]
        trained = [m for m, weight in zip(expected[2], expected[1], strict=True) if weight]
        whole = (start, stop) == (0, LENGTHS[i])
        assert taken.turn[k] == (BLOCK.turn[i] if whole else trained[-1] if trained else -1)


def test_joining_keeps_every_example() -> None:
    joined = join_blocks(BLOCK, take_windows(BLOCK, whole_windows(BLOCK, np.array([False, True, False]))))
    assert [parts(example) for example in joined] == [parts(BLOCK[i]) for i in (0, 1, 2, 1)]
    assert joined.conversation.tolist() == [0, 1, 2, 1]


def test_a_trained_first_token_is_no_target() -> None:
    starts = np.array([int(np.flatnonzero(BLOCK[i].weights)[0]) for i in range(3)], np.int64)
    cut = take_windows(BLOCK, Windows(np.arange(3), starts, np.array(LENGTHS)))
    expected = [int((example.weights[1:] != 0).sum()) for example in cut]
    assert trained_counts(cut).tolist() == expected
    assert trained_counts(BLOCK).tolist() == [int((example.weights != 0).sum()) for example in BLOCK]

"""Every length policy against its obvious definition, one example at a time."""

from __future__ import annotations

import itertools
import json
from collections import Counter

import pytest

from datasets_io import iter_blocks, render_block
from datasets_io.block_render import BlockResult, renderer_of
from datasets_io.columns import BatchView
from datasets_io.lengths import split_points
from datasets_io.sources import expand_inputs
from tests.datasets_io.build_samples import chat, lines_of, spec_of, words, write_rows

ROWS = [
    chat("Hi", "Hello"),
    chat(words(5), words(6), words(7), words(8), words(9), words(3), system="Answer in words."),
    chat(words(30), words(40)),
    chat(words(3), words(90), words(2), words(4)),
    chat(words(4), words(4), words(40), words(60)),
    chat("a", "b", "c", "d", "e", "f", "g", "h", "i", "j", "k", "l"),
]
LIMITS = [2, 5, 12, 30, 64, 150, 1000]


def rendered_with(tmp_path, rows=ROWS, **changes) -> BlockResult:
    path = write_rows(tmp_path / "rows.jsonl", rows)
    (block,) = iter_blocks(expand_inputs([path]))
    return render_block(block, spec_of(**changes))


def examples(result: BlockResult) -> list[tuple[int, list[int], list[float]]]:
    """(line, tokens, weights), unshifted; the first token's weight is not stored."""
    view = BatchView(result.batches["train"])
    rows = [view.row(i) for i in range(view.num_rows)]
    return [
        (row.provenance.line, [*row.tokens.tolist(), int(row.target_tokens[-1])], [0.0, *row.weights.tolist()])
        for row in rows
    ]


def whole(tmp_path) -> list[tuple[int, list[int], list[float]]]:
    return examples(rendered_with(tmp_path))


def trained(example: tuple[int, list[int], list[float]]) -> bool:
    return any(example[2][1:])


def cut(example, start, stop):
    line, tokens, weights = example
    return line, tokens[start:stop], [0.0, *weights[start + 1 : stop]]


@pytest.mark.parametrize("limit", LIMITS)
def test_drop(tmp_path, limit) -> None:
    all_of_them = whole(tmp_path)
    result = rendered_with(tmp_path, max_length=limit)
    assert examples(result) == [example for example in all_of_them if len(example[1]) <= limit]
    assert [drop.line for drop in result.drops] == [line for line, tokens, _ in all_of_them if len(tokens) > limit]
    assert {drop.reason for drop in result.drops} <= {"too_long"}


@pytest.mark.parametrize("policy", ["keep-start", "keep-end"])
@pytest.mark.parametrize("limit", LIMITS)
def test_cuts(tmp_path, limit, policy) -> None:
    all_of_them = whole(tmp_path)
    result = rendered_with(tmp_path, max_length=limit, max_length_policy=policy)
    expected, lost, cut_turns = [], 0, 0
    for example in all_of_them:
        length = len(example[1])
        start = max(length - limit, 0) if policy == "keep-end" else 0
        stop = length if policy == "keep-end" else min(length, limit)
        part = cut(example, start, stop)
        expected += [part] if trained(part) else []
        lost += not trained(part)
        at = start if policy == "keep-end" else stop
        cut_turns += length > limit and bool(example[2][at - 1]) and bool(example[2][at])
    assert examples(result) == expected
    assert Counter(drop.reason for drop in result.drops) == Counter(no_trained_tokens=lost)
    name = "cut_turn_start" if policy == "keep-end" else "cut_stop_token"
    assert result.events[name] == cut_turns
    assert result.events["cut_" + policy.replace("-", "_")] == sum(len(tokens) > limit for _, tokens, _ in all_of_them)


@pytest.mark.parametrize("limit", LIMITS)
def test_drop_oldest_turns(tmp_path, limit) -> None:
    """By trying every number of exchanges, the smallest first."""
    renderer = renderer_of(spec_of())
    expected, lost = [], []
    for line, row in enumerate(ROWS, 1):
        messages = row["messages"]
        head = sum(message["role"] == "system" for message in messages)
        users = [i for i, message in enumerate(messages) if message["role"] == "user"]
        for first in users:
            (example,) = renderer.render([*messages[:head], *messages[first:]])
            if len(example.tokens) <= limit:
                expected.append((line, example.tokens.tolist(), example.weights.tolist()))
                break
        else:
            lost.append(line)
    result = rendered_with(tmp_path, max_length=limit, max_length_policy="drop-oldest-turns")
    assert examples(result) == expected
    assert [drop.line for drop in result.drops if drop.reason == "too_long"] == lost
    shortened = sum(e not in whole(tmp_path) for e in expected)
    assert result.events["oldest_turns_dropped"] == shortened


def test_messages_keep_their_numbers_when_turns_go(tmp_path) -> None:
    result = rendered_with(tmp_path, max_length=100, max_length_policy="drop-oldest-turns")
    view = BatchView(result.batches["train"])
    (row,) = [view.row(i) for i in range(view.num_rows) if view.row(i).provenance.line == 2]
    messages = ROWS[1]["messages"]
    assert row.segments is not None
    shown = row.segments.message.tolist()
    assert shown == [0, 3, 4, 5, 6]
    assert row.segments.role.tolist() == [{"system": 0, "user": 2, "assistant": 3}[messages[m]["role"]] for m in shown]
    assert row.provenance.turn == 6


def test_turns_with_their_own_prompts_are_shortened_one_by_one(tmp_path) -> None:
    """Each of the examples of `--turns split` keeps what fits before its own turn."""
    rows = [chat(*(words(10, 10 * i) for i in range(10)))]
    result = rendered_with(tmp_path, rows, max_length=150, max_length_policy="drop-oldest-turns", turns="split")
    renderer = renderer_of(spec_of())
    expected = []
    for turn in range(1, 10, 2):
        for first in range(0, turn, 2):
            (example,) = renderer.render(rows[0]["messages"][first : turn + 1], "last_assistant_message")
            if len(example.tokens) <= 150:
                expected.append((1, example.tokens.tolist(), example.weights.tolist()))
                break
    assert examples(result) == expected
    assert len(expected) == 5


@pytest.mark.parametrize("limit", LIMITS)
def test_split(tmp_path, limit) -> None:
    """Every piece fits, starts where a message starts, and together they lose only messages that fit nowhere."""
    result = rendered_with(tmp_path, max_length=limit, max_length_policy="split")
    pieces, all_of_them = examples(result), whole(tmp_path)
    assert all(len(tokens) <= limit for _, tokens, _ in pieces)
    lost = Counter(drop.line for drop in result.drops)
    for line, tokens, weights in all_of_them:
        mine = [piece for piece in pieces if piece[0] == line]
        if len(tokens) <= limit:
            assert mine == [(line, tokens, weights)]
            continue
        if not lost[line]:
            assert [t for _, part, _ in mine for t in part] == tokens
        open_token = tokens[0]
        assert all(part[0] == open_token for _, part, _ in mine)
    assert {drop.reason for drop in result.drops} <= {"message_too_long", "no_trained_tokens"}
    assert result.events["split_by_length"] == sum(len(tokens) > limit for _, tokens, _ in all_of_them)


@pytest.mark.parametrize("limit", [1, 3, 4, 7, 20])
def test_split_points_cover_everything_that_fits(limit) -> None:
    for sizes in itertools.product([1, 3, 6], repeat=4):
        edges = [0, *itertools.accumulate(sizes)]
        opens = [True, False, True, False]
        pieces, lost = split_points(edges, opens, limit)
        covered = sorted([p for start, stop in pieces for p in range(start, stop)])
        missing = [p for i in lost for p in range(edges[i], edges[i + 1])]
        assert sorted(covered + missing) == list(range(edges[-1]))
        assert all(stop - start <= limit for start, stop in pieces)
        assert all(start in edges and stop in edges for start, stop in pieces)
        assert lost == [i for i, size in enumerate(sizes) if size > limit]


def test_nothing_is_too_long_without_a_limit(tmp_path) -> None:
    result = rendered_with(tmp_path)
    assert len(examples(result)) == len(ROWS)
    assert result.drops == []


def test_a_refused_pair_half_takes_the_other_along(tmp_path) -> None:
    rows = [
        {"prompt": "Hi", "chosen": "Hello", "rejected": words(80)},
        {"prompt": "Hi", "chosen": "Hello", "rejected": "No"},
    ]
    result = rendered_with(tmp_path, rows, max_length=40)
    assert [line for line, _, _ in examples(result)] == [2, 2]
    assert [(drop.line, drop.reason) for drop in result.drops] == [(1, "too_long"), (1, "pair_broken")]
    assert (result.read, result.accepted) == (2, 2)
    written = [json.loads(drop.to_json()) for drop in result.drops]
    assert written[0]["detail"].startswith("expected at most 40 tokens; got ")
    assert lines_of(tmp_path / "none") == []

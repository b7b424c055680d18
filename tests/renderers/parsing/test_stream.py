"""Token by token, in chunks, or at once: the same deltas' worth, never half a character, work in proportion."""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Iterator
from typing import Any

import pytest

from renderers import (
    ParseTermination,
    ReasoningDelta,
    Renderer,
    ResponseEnd,
    TextDelta,
    ToolCallArguments,
    ToolCallEnd,
    ToolCallStart,
)
from tests.renderers.parity_cases import CASES, conversations
from tests.renderers.parsing.renderers_at_hand import EVERY, FIXTURE, Key, name_of, renderer_of, turns


def completions(renderer: Renderer, count: int, seed: int) -> Iterator[tuple[list[int], list[int], Any]]:
    for case in CASES:
        for messages, tools in conversations(case, count, seed):
            for _, prompt, completion in turns(renderer, messages, tools):
                yield prompt, completion, tools


def random_completions(renderer: Renderer, count: int, seed: int) -> Iterator[list[int]]:
    """Any ids, with control tokens far more often than chance would have them, and some that do not exist."""
    rng = random.Random(seed)
    tokenizer = renderer.tokenizer
    marks = [tokenizer.control[mark].id for mark in renderer.response_format.marks if mark in tokenizer.control]
    ends = [stop for stop in renderer.get_stop_sequences() if isinstance(stop, int)]
    texts = [
        '{"name": "f", "arguments": {"a": 1}}',
        "<function=f>",
        "\n",
        "😀é",
        '{"',
        "}]",
        " to=functions.f",
        "analysis",
    ]
    pieces = [tokenizer.encode_text(text, continuation=True) for text in texts]
    control = sorted(tokenizer.control_ids)
    for _ in range(count):
        tokens: list[int] = []
        for _ in range(rng.randint(0, 30)):
            tokens += rng.choice(
                [
                    [rng.randrange(tokenizer.vocab_size)],
                    [rng.choice(control)],
                    [rng.choice(marks)] if marks else [],
                    [rng.choice(ends)] if ends and rng.random() < 0.2 else [],
                    rng.choice(pieces),
                    rng.choice(pieces)[: rng.randint(0, 2)],
                    [tokenizer.vocab_size + 7] if rng.random() < 0.1 else [],
                ]
            )
        yield tokens


def check_deltas(deltas: list[Any]) -> None:
    """The deltas tell the same message as their end."""
    end = deltas[-1]
    assert isinstance(end, ResponseEnd)
    message: Any = end.message
    text = "".join(delta.text for delta in deltas if isinstance(delta, TextDelta))
    reasoning = "".join(delta.text for delta in deltas if isinstance(delta, ReasoningDelta))
    assert text == message.get("content", "")
    assert reasoning == message.get("reasoning_content", "")
    started: list[int] = []
    arguments: dict[int, str] = {}
    ended: list[ToolCallEnd] = []
    for delta in deltas:
        if isinstance(delta, ToolCallStart):
            started.append(delta.index)
            arguments[delta.index] = ""
        elif isinstance(delta, ToolCallArguments):
            assert delta.index in arguments
            arguments[delta.index] += delta.text
        elif isinstance(delta, ToolCallEnd):
            ended.append(delta)
    assert [delta.index for delta in ended] == list(range(len(ended)))
    good = [delta for delta in ended if delta.call is not None]
    assert [delta.call for delta in good] == message.get("tool_calls", [])
    for delta in good:
        assert delta.index in started
        written = json.loads(arguments[delta.index])
        assert (json.loads(written) if isinstance(written, str) else written) == delta.call["function"]["arguments"]
    bad = [{"raw": delta.raw, "reason": delta.reason} for delta in ended if delta.call is None]
    assert bad == message.get("unparsed_tool_calls", [])
    assert all(delta["reason"] for delta in bad)


def in_chunks(renderer: Renderer, tokens: list[int], size: int, **known: Any) -> list[Any]:
    parser = renderer.stream_parser(**known)
    deltas: list[Any] = []
    for start in range(0, len(tokens), size):
        deltas += parser.feed(tokens[start : start + size])
    deltas += parser.close()
    return [*deltas, ResponseEnd(*parser.finish())]


def joined(deltas: list[Any]) -> list[Any]:
    """Neighbouring deltas of one kind as one."""
    out: list[Any] = []
    for delta in deltas:
        kind = type(delta)
        if out and type(out[-1]) is kind and kind in (TextDelta, ReasoningDelta):
            out[-1] = kind(out[-1].text + delta.text)
        elif out and type(out[-1]) is kind is ToolCallArguments and out[-1].index == delta.index:
            out[-1] = kind(delta.index, out[-1].text + delta.text)
        else:
            out.append(delta)
    return out


@pytest.mark.parametrize("key", EVERY)
def test_any_portions_give_the_same(key: Key) -> None:
    renderer = renderer_of(key)
    for number, (prompt, completion, tools) in enumerate(completions(renderer, 1, seed=11)):
        known: dict[str, Any] = {"prompt_tokens": prompt, "tools": tools}
        deltas = list(renderer.parse_response_streaming(iter(completion), **known))
        check_deltas(deltas)
        end = deltas[-1]
        assert (end.message, end.termination) == renderer.parse_response(completion, **known)
        size = 2 + number % 5
        assert joined(in_chunks(renderer, completion, size, **known)) == joined(deltas)


@pytest.mark.parametrize("key", EVERY)
def test_nothing_raises_on_any_ids(key: Key) -> None:
    renderer = renderer_of(key)
    for tokens in random_completions(renderer, 60, seed=5):
        deltas = list(renderer.parse_response_streaming(tokens))
        check_deltas(deltas)
        assert (deltas[-1].message, deltas[-1].termination) == renderer.parse_response(tokens)
        assert isinstance(deltas[-1].termination, ParseTermination)


@pytest.mark.parametrize("key", [pytest.param(key, id=name_of(key)) for key in FIXTURE[::2]])
def test_a_cut_response_is_cut(key: Key) -> None:
    renderer = renderer_of(key)
    for prompt, completion, tools in list(completions(renderer, 1, seed=2))[::9]:
        whole, _ = renderer.parse_response(completion, prompt_tokens=prompt, tools=tools)
        for end in range(0, len(completion), max(1, len(completion) // 6)):
            parsed, termination = renderer.parse_response(completion[:end], prompt_tokens=prompt, tools=tools)
            assert termination is ParseTermination.LENGTH
            reasoning, full = parsed.get("reasoning_content", ""), whole.get("reasoning_content", "")
            assert full.startswith(reasoning.removesuffix("\ufffd").rstrip())
            assert len(parsed.get("tool_calls", ())) <= len(whole.get("tool_calls", ()))


@pytest.mark.parametrize("key", EVERY)
def test_characters_stay_whole(key: Key) -> None:
    renderer = renderer_of(key)
    text = "a👩‍👩‍👧🇩🇪é中文𝔘\u200f ﬁ½ end"
    tokens = renderer.tokenizer.encode_text(text)
    parser = renderer.stream_parser(prompt_tokens=[])
    shown = [delta.text for token in tokens for delta in parser.feed(token)]
    assert not any("\ufffd" in part for part in shown)
    shown += [delta.text for delta in parser.close()]
    if not renderer.response_format.harmony:
        assert "".join(shown) == text


def calls_made(function: Any) -> int:
    """How many Python and C calls `function` makes."""
    count = 0

    def profile(frame: Any, event: str, arg: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(profile)
    try:
        function()
    finally:
        sys.setprofile(None)
    return count


@pytest.mark.parametrize("kind", ["content", "reasoning", "call", "white space", "open brace", "broken bytes"])
def test_work_is_linear(kind: str) -> None:
    renderer = renderer_of(("tiny-chat", "qwen3", ()))
    encode, control = renderer.tokenizer.encode_text, renderer.tokenizer.control
    think, call = [control["<think>"].id], [control["<tool_call>"].id]
    byte = next(i for i in range(300) if renderer.tokenizer.decode([i]) == "\ufffd")
    start, unit = {
        "content": ([], encode("some words\n")),
        "reasoning": (think, encode("some words\n")),
        "call": ([*call, *encode('{"name": "f", "arguments": {"a": "')], encode('words \\" and {')),
        "white space": ([], encode(" \n x")[:-1] or encode("\n")),
        "open brace": (call, encode("{")),
        "broken bytes": ([], [byte]),
    }[kind]

    def cost(repeats: int) -> tuple[int, int]:
        tokens = [*start, *unit * repeats]
        parser = renderer.stream_parser()
        made = calls_made(lambda: [parser.feed(token) for token in tokens])
        parser.finish()
        assert parser.num_decoded == sum(token not in renderer.tokenizer.control_ids for token in tokens)
        return made, len(tokens)

    cost(50)  # tables are filled
    (small, few), (large, many) = cost(200), cost(1600)
    assert large / many < 1.1 * small / few


def test_chunks_of_text_are_shown_as_they_come() -> None:
    renderer = renderer_of(("tiny-chat", "qwen3", ()))
    tokens = renderer.tokenizer.encode("<think>\nOne two\n</think>\n\nThree four\n\nfive<|im_end|>")
    deltas = list(renderer.parse_response_streaming(tokens))
    assert len([delta for delta in deltas if isinstance(delta, ReasoningDelta)]) > 1
    assert len([delta for delta in deltas if isinstance(delta, TextDelta)]) > 2
    assert deltas[-1].message == {"role": "assistant", "reasoning_content": "One two", "content": "Three four\n\nfive"}


def test_the_length_of_a_token_list_does_not_matter_to_one_step() -> None:
    renderer = renderer_of(("tiny-chat", "qwen3", ()))
    parser = renderer.stream_parser()
    token = renderer.tokenizer.encode_text("word")[0]
    parser.feed([token] * 10)
    early = calls_made(lambda: parser.feed(token))
    parser.feed([token] * 5000)
    assert calls_made(lambda: parser.feed(token)) == early

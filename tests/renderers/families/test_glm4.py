"""GLM-4.5: a turn ends with the token that begins the next message, trained with the turn and written once."""

from __future__ import annotations

from typing import Any

import pytest

from renderers import InputError, get_renderer
from tests.renderers.vectors import tiny_tokenizer

WORDS = (
    "<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<think>",
    "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<arg_key>", "</arg_key>",
    "<arg_value>", "</arg_value>", "/nothink",
)  # fmt: skip
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}


def renderer_of(**options: Any) -> Any:
    tokens = [{"content": word, "special": True, "lstrip": False, "rstrip": False} for word in WORDS]
    return get_renderer("glm4_5", tiny_tokenizer(tokens, {}), **options)


def trained(renderer: Any, example: Any) -> list[str]:
    """The trained stretches as text."""
    stretches: list[list[int]] = []
    before = 0.0
    for token, weight in zip(example.tokens.tolist(), example.weights.tolist(), strict=True):
        if weight and not before:
            stretches.append([])
        if weight:
            stretches[-1].append(token)
        before = weight
    return [renderer.tokenizer.decode(tokens) for tokens in stretches]


def test_the_token_that_follows_is_trained_and_written_once() -> None:
    renderer = renderer_of(thinking=False)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "2"},
        {"role": "assistant", "content": "Two."},
        {"role": "user", "content": "Bye"},
        {"role": "assistant", "content": "Bye."},
    ]
    (example,) = renderer.render(messages)
    call = "\n<tool_call>f\n<arg_key>x</arg_key>\n<arg_value>1</arg_value>\n</tool_call><|observation|>"
    assert trained(renderer, example) == [call, "\nTwo.<|user|>", "\nBye.<|user|>"]
    whole = renderer.render(messages, "all_tokens", turns="single")[0].tokens.tolist()
    assert example.tokens.tolist() == [*whole, renderer.tokenizer.control["<|user|>"].id]
    # Every prompt is what sampling shows, up to and with the generation prompt.
    for i in (1, 3, 5):
        prompt = renderer.build_generation_prompt(messages[:i]).to_ints()
        assert example.tokens.tolist()[: len(prompt)] == prompt


def test_the_stop_at_the_end_of_an_example_is_the_one_that_would_follow() -> None:
    renderer = renderer_of()
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "", "tool_calls": [CALL]}]
    (example,) = renderer.render(messages)
    assert trained(renderer, example)[0].endswith("</tool_call><|observation|>")
    (example,) = renderer.render([messages[0], {"role": "assistant", "content": "Hello"}])
    assert trained(renderer, example) == ["\n<think></think>\nHello<|user|>"]


def test_what_no_model_says_ends_the_example() -> None:
    renderer = renderer_of(thinking=False)
    messages = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "One"},
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Again"},
        {"role": "assistant", "content": "Two"},
    ]
    first, second = renderer.render(messages)
    assert trained(renderer, first) == ["\nOne<|user|>"]
    assert trained(renderer, second) == ["\nTwo<|user|>"]
    (single,) = renderer.render(messages, turns="single")
    assert trained(renderer, single) == ["\n<think></think>\nOne", "\n<think></think>\nTwo<|user|>"]


def test_stops_are_the_next_roles_tokens() -> None:
    renderer = renderer_of()
    control = renderer.tokenizer.control
    assert renderer.get_stop_sequences() == [control[t].id for t in ("<|user|>", "<|observation|>", "<|endoftext|>")]


def test_versions_differ_in_empty_arguments() -> None:
    call = {"type": "function", "function": {"name": "f", "arguments": ""}}
    messages = [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
    assert renderer_of(version="4.6").render(messages, "all_tokens")
    with pytest.raises(InputError, match=r"messages\[1\]\.tool_calls.*expected arguments as an object"):
        renderer_of(version="4.5").render(messages, "all_tokens")

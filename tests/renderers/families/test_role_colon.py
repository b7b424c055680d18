from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from renderers import RefusedError, RenderedTokens, get_renderer
from tests.renderers.families.tiny import shown, tiny_tokenizer

BASE = get_renderer("role_colon", tiny_tokenizer(("<s>", "</s>"), bos="<s>", eos="</s>"))
CHAT = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hi"},
    {"role": "assistant", "content": "Yes"},
    {"role": "user", "content": "Why?"},
    {"role": "assistant", "content": "So."},
]
TEXT = "<s>System: Be kind.\n\nUser: Hi\n\nAssistant: Yes\n\nUser: Why?\n\nAssistant: So.\n\nUser:"


def trained(example: RenderedTokens) -> list[str]:
    """The runs of trained tokens, as text."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], example.weights > 0, [0]))))
    return [shown(BASE, example.tokens[start:stop]) for start, stop in edges.reshape(-1, 2)]


def test_prompt() -> None:
    prompt = BASE.build_generation_prompt(CHAT[:-1]).to_ints()
    assert shown(BASE, prompt) == TEXT.removesuffix(" So.\n\nUser:")
    assert prompt[0] == BASE.tokenizer.control["<s>"].id


def test_no_bos_where_the_tokenizer_has_none() -> None:
    renderer = get_renderer("role_colon", tiny_tokenizer(("</s>",), eos="</s>"))
    assert shown(renderer, renderer.build_generation_prompt(CHAT[1:2]).to_ints()) == "User: Hi\n\nAssistant:"


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("last_assistant_message", [" So.\n\nUser:"]),
        ("last_assistant_turn", [" So.\n\nUser:"]),
        ("all_assistant_messages", [" Yes\n\n", " So.\n\nUser:"]),
        ("all_messages", [" Be kind.\n\n", " Hi\n\n", " Yes\n\n", " Why?\n\n", " So.\n\nUser:"]),
        ("all_tokens", [TEXT.removeprefix("<s>")]),
    ],
)
def test_modes(mode: str, expected: list[str]) -> None:
    (example,) = BASE.render(CHAT, mode)
    assert shown(BASE, example.tokens) == TEXT
    assert trained(example) == expected


def test_users_and_system_only() -> None:
    (example,) = BASE.render(CHAT, "all_user_and_system_messages")
    assert trained(example) == [" Be kind.\n\n", " Hi\n\n", " Why?\n\n"]


def test_split_turns_each_end_with_the_stop() -> None:
    first, second = BASE.render(CHAT, turns="split")
    assert shown(BASE, first.tokens) == "<s>System: Be kind.\n\nUser: Hi\n\nAssistant: Yes\n\nUser:"
    assert (trained(first), trained(second)) == ([" Yes\n\nUser:"], [" So.\n\nUser:"])


def test_prompt_and_trained_turn_join_as_sampling_shows_them() -> None:
    (example,) = BASE.render(CHAT, "last_assistant_message")
    prompt = BASE.build_generation_prompt(CHAT[:-1]).to_ints()
    assert example.tokens.tolist()[: len(prompt)] == prompt
    assert int(np.argmax(example.weights > 0)) == len(prompt)


def test_stop_is_a_string() -> None:
    assert BASE.get_stop_sequences() == ["\n\nUser:"]


@pytest.mark.parametrize(
    ("messages", "tools", "place"),
    [
        (CHAT[1:3], [{"type": "function", "function": {"name": "f"}}], "tools:"),
        ([CHAT[1], {"role": "assistant", "tool_calls": [{"function": {}}]}], None, "messages[1].tool_calls:"),
        ([CHAT[1], {"role": "assistant", "content": "a\n\nUser: b"}], None, "messages[1].content:"),
        ([{"role": "user"}, CHAT[2]], None, "messages[0].content:"),
    ],
)
def test_refusals_name_the_place(messages: list[Any], tools: Any, place: str) -> None:
    with pytest.raises(RefusedError) as caught:
        BASE.render(messages, "all_assistant_messages", tools)
    assert str(caught.value).startswith(place)

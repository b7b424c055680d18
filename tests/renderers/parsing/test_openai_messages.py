"""Messages to OpenAI's form and back, and what counts as a failed parse."""

from __future__ import annotations

from typing import Any

import pytest

from renderers import (
    InputError,
    ParseFailureKind,
    ParseTermination,
    classify_parse_failure,
    from_openai_message,
    to_openai_message,
)

ARGUMENTS = "tool_calls[0].function.arguments"
CALL: dict[str, Any] = {"type": "function", "function": {"name": "f", "arguments": {"é": [1]}}}


def test_a_parsed_message_becomes_an_api_message() -> None:
    message = {
        "role": "assistant",
        "content": "",
        "reasoning_content": "Hm.",
        "tool_calls": [CALL, {**CALL, "id": "x"}],
    }
    assert to_openai_message(message) == {
        "role": "assistant",
        "content": None,
        "reasoning_content": "Hm.",
        "tool_calls": [
            {"id": "call_0", "type": "function", "function": {"name": "f", "arguments": '{"é": [1]}'}},
            {"id": "x", "type": "function", "function": {"name": "f", "arguments": '{"é": [1]}'}},
        ],
    }


def test_parts() -> None:
    thinking = {"type": "thinking", "thinking": "Hm."}
    text = {"type": "text", "text": "a"}
    image = {"type": "image", "image": "data:image/png;base64,xx"}
    out = to_openai_message({"role": "assistant", "content": [thinking, text, text]})
    assert out == {"role": "assistant", "content": "aa", "reasoning_content": "Hm."}
    sent = {"type": "image_url", "image_url": {"url": image["image"]}}
    assert to_openai_message({"role": "user", "content": [text, image]})["content"] == [text, sent]
    assert from_openai_message({"role": "user", "content": [text, sent]})["content"] == [text, image]


def test_unparsed_calls_are_not_lost() -> None:
    unparsed = [{"raw": "<tool_call>no</tool_call>", "reason": "expected JSON"}]
    out = to_openai_message({"role": "assistant", "content": "So.", "unparsed_tool_calls": unparsed})
    assert out == {"role": "assistant", "content": "So.\n<tool_call>no</tool_call>"}


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": "Hi"},
        {"role": "assistant", "content": "", "tool_calls": [{**CALL, "id": "call_0"}]},
        {"role": "assistant", "content": "x", "reasoning_content": "Hm."},
        {"role": "tool", "content": "42", "tool_call_id": "call_0", "name": "f"},
    ],
)
def test_there_and_back(message: dict[str, Any]) -> None:
    assert from_openai_message(to_openai_message(message)) == message


@pytest.mark.parametrize(
    ("message", "place"),
    [
        ({"content": "x"}, "role"),
        ({"role": "assistant", "tool_calls": [{"id": "x"}]}, "tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {"arguments": "{}"}}]}, "tool_calls[0].function"),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "no"}}]}, ARGUMENTS),
        ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": "[1]"}}]}, ARGUMENTS),
    ],
)
def test_faults_are_named(message: dict[str, Any], place: str) -> None:
    with pytest.raises(InputError) as error:
        from_openai_message(message)
    assert error.value.field == place


def test_failures_have_kinds() -> None:
    message: dict[str, Any] = {"role": "assistant", "content": "x"}
    clean = ParseTermination.STOP_SEQUENCE
    assert classify_parse_failure(message, clean) is None
    assert classify_parse_failure(message, ParseTermination.EOS) is None
    broken = {**message, "unparsed_tool_calls": [{"raw": "r", "reason": "expected JSON"}]}
    assert classify_parse_failure(broken, clean) == (
        ParseFailureKind.CONTENT,
        "1 tool call(s) unparsed; the first: expected JSON",
    )
    for termination in (ParseTermination.LENGTH, ParseTermination.MALFORMED):
        found = classify_parse_failure(broken, termination)
        assert found is not None
        assert found[0] is ParseFailureKind.STRUCTURAL

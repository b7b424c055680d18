"""Render a conversation, cut out what is trained, parse it: the message comes back.

Two ways of asking. Rendering the parsed message gives the text that was parsed, whatever the kind of conversation:
then nothing was lost and nothing made up. And for messages that the template writes as they are, the fields are the
same, compared without the white space at their edges and with arguments as JSON.
"""

from __future__ import annotations

import json
import unicodedata
from typing import Any

import pytest

from renderers import InputError, ParseTermination, Renderer
from tests.renderers.parity_cases import CASES, conversations
from tests.renderers.parsing.renderers_at_hand import EVERY, Key, renderer_of, turns

PER_CASE = 2
SHOWS_REASONING = ("qwen3", "qwen3_5", "nemotron3", "glm4_5", "glm4.6", "gpt_oss")
SHOWS_CALLS = ("qwen3", "qwen3_instruct", "qwen2.5", "qwen3_5", "kimi_k2", "glm4_5", "glm4.6", "mistral_nemo")


def arguments_of(call: dict[str, Any]) -> Any:
    arguments = call["function"]["arguments"]
    return json.loads(arguments) if isinstance(arguments, str) else arguments


def readable(message: dict[str, Any]) -> bool:
    """Whether all arguments are JSON objects; others are kept as unparsed calls."""
    try:
        return all(isinstance(arguments_of(call), dict) for call in message.get("tool_calls", ()))
    except ValueError:
        return False


def fields(message: dict[str, Any]) -> tuple[Any, ...]:
    calls = [(call["function"]["name"], arguments_of(call)) for call in message.get("tool_calls", ())]
    texts = (message.get("content") or "", message.get("reasoning_content") or "")
    # Some tokenizers normalise what they encode.
    content, reasoning = (unicodedata.normalize("NFC", text).strip() for text in texts)
    return content, reasoning, calls


def rendered_again(renderer: Renderer, messages: list[Any], tools: Any) -> str | None:
    try:
        examples = renderer.render(messages, "last_assistant_message", tools, turns="split")
    except InputError:
        return None
    return renderer.tokenizer.decode(examples[-1].tokens.tolist())


@pytest.mark.parametrize("key", EVERY)
def test_rendering_what_was_parsed_gives_its_text(key: Key) -> None:
    renderer = renderer_of(key)
    compared = 0
    for case in CASES:
        for messages, tools in conversations(case, PER_CASE, seed=3):
            for i, prompt, completion in turns(renderer, messages, tools):
                turn = messages[i]
                parsed, termination = renderer.parse_response(completion, prompt_tokens=prompt, tools=tools)
                if not readable(turn) and turn["tool_calls"] and "tool_calls" not in parsed:
                    continue  # tested where calls fail
                where = f"{case} {turn!r} -> {parsed!r} {termination}"
                assert termination.is_clean or ends_without_stop(renderer, completion), where
                assert "unparsed_tool_calls" not in parsed or not readable(turn), where
                again = rendered_again(renderer, [*messages[:i], parsed], tools)
                same = again == renderer.tokenizer.decode(prompt + completion)
                assert same or excused(turn, parsed), f"{where}\n{again!r}"
                compared += same
    assert compared >= 10


def ends_without_stop(renderer: Renderer, completion: list[int]) -> bool:
    """DeepSeek's template closes a single call with no token, GLM's (run as a template) no turn at all."""
    return completion[-1] not in renderer.get_stop_sequences()


def excused(turn: dict[str, Any], parsed: dict[str, Any]) -> bool:
    """What a template's own text does not tell apart.

    Content of line breaks alone before a call; tags typed into the content, which the template takes for its own and
    re-cuts; arguments given as JSON text, which it prints as they were spelled.
    """
    if "tool_calls" in turn:
        spelled = any(isinstance(call["function"]["arguments"], str) for call in turn["tool_calls"])
        if spelled or not str(turn.get("content") or "").strip():
            return (
                not readable(turn) or fields(parsed)[2] == fields({**turn, "content": ""})[2][: len(fields(parsed)[2])]
            )
    content = turn.get("content")
    text = content if isinstance(content, str) else "".join(str(part) for part in content or ())
    return "think>" in text


@pytest.mark.parametrize("key", EVERY)
def test_plain_turns_come_back(key: Key) -> None:
    renderer = renderer_of(key)
    compared = 0
    for case in ("plain", "world_text", "many_turns", "edge_whitespace"):
        for messages, tools in conversations(case, PER_CASE, seed=7):
            for i, prompt, completion in turns(renderer, messages, tools):
                parsed, _ = renderer.parse_response(completion, prompt_tokens=prompt)
                assert fields(parsed) == fields(messages[i])
                compared += 1
    # With thinking on, Nemotron writes a turn without reasoning unlike its prompt, so it is refused.
    assert compared > 10 or ("nemotron3" in key[:2] and renderer.options.get("thinking", True))


@pytest.mark.parametrize("key", [p for p in EVERY if p.values[0] and p.values[0][1] in SHOWS_REASONING])
def test_reasoning_comes_back(key: Key) -> None:
    renderer = renderer_of(key)
    messages = [{"role": "user", "content": "Hi"}]
    for reasoning, content in (("Because.\n\nSo.", "It is 408."), ("因为 👩‍👩‍👧", "é\n\nf"), ("<b>x</b>", "a <b> c")):
        turn = {"role": "assistant", "reasoning_content": reasoning, "content": content}
        found = list(turns(renderer, [*messages, turn], None))
        if renderer.options.get("thinking") is False:
            assert found == []  # the prompt closes the think block, so no such turn is sampled
            continue
        _, prompt, completion = found[0]
        assert renderer.parse_response(completion, prompt_tokens=prompt) == (turn, ParseTermination.STOP_SEQUENCE)


@pytest.mark.parametrize("key", [p for p in EVERY if p.values[0] and p.values[0][1] in SHOWS_CALLS])
def test_calls_come_back(key: Key) -> None:
    renderer = renderer_of(key)
    tools = [
        {
            "type": "function",
            "function": {
                "name": "get",
                "description": "Gets.",
                "parameters": {"type": "object", "properties": {"text": {"type": "string"}, "n": {"type": "integer"}}},
            },
        }
    ]
    arguments: list[dict[str, Any]] = [
        {},
        {"text": "1", "n": 1},
        {"text": '{"a": [1]}', "n": -3},
        {"text": 'two\nlines } ] " \\ </tool_call> é', "n": 0},
        {"other": [1, {"k": [None, True, 0.5]}], "flag": False, "none": None},
    ]
    for given in arguments:
        calls = [
            {"type": "function", "id": "abcde1234", "function": {"name": "get", "arguments": given}},
            {"type": "function", "id": "abcde1235", "function": {"name": "other", "arguments": {}}},
        ]
        turn = {"role": "assistant", "content": "", "tool_calls": calls}
        if key[1] == "mistral_nemo":
            del turn["content"]
        _, prompt, completion = next(iter(turns(renderer, [{"role": "user", "content": "Hi"}, turn], tools)))
        parsed, termination = renderer.parse_response(completion, prompt_tokens=prompt, tools=tools)
        assert termination.is_stop_sequence
        assert "unparsed_tool_calls" not in parsed
        assert fields(parsed)[2] == fields(turn)[2]


def test_a_call_and_its_reasoning_come_back_in_harmony_and_deepseek() -> None:
    call = {"type": "function", "function": {"name": "get", "arguments": {"n": [1, "é"]}}}
    user = {"role": "user", "content": "Hi"}
    turn: dict[str, Any] = {"role": "assistant", "content": "", "reasoning_content": "Look.", "tool_calls": [call]}
    renderer = renderer_of(("tiny-all", "gpt_oss", (("current_date", "2025-06-01"),)))
    _, prompt, completion = next(iter(turns(renderer, [user, turn], None)))
    assert renderer.parse_response(completion, prompt_tokens=prompt) == (turn, ParseTermination.STOP_SEQUENCE)
    renderer = renderer_of(("tiny-all", "deepseek_v3", (("null_content", True),)))
    both: dict[str, Any] = {"role": "assistant", "tool_calls": [call, call]}
    _, prompt, completion = next(iter(turns(renderer, [user, both], None)))
    assert renderer.parse_response(completion, prompt_tokens=prompt) == (both, ParseTermination.STOP_SEQUENCE)

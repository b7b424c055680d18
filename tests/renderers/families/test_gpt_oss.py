from __future__ import annotations

import random
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from renderers import ChatTemplate, Conversation, OptionError, RefusedError, get_renderer
from tests.renderers.families.tiny import shown, tiny_tokenizer

CONTROLS = ("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>")
TOKENIZER = tiny_tokenizer(CONTROLS, eos="<|return|>")
USER = {"role": "user", "content": "Hi"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "北京"}}}
RESULT = {"role": "tool", "content": "21"}


def prompt(messages: list[Any], **options: Any) -> str:
    renderer = get_renderer("gpt_oss", TOKENIZER, **options)
    return shown(renderer, renderer.build_generation_prompt(messages).to_ints())


def test_the_date_is_the_one_given() -> None:
    assert "\nCurrent date: 2025-01-02\n" in prompt([USER], current_date="2025-01-02")


@pytest.mark.parametrize("given", [None, ""])
def test_without_a_date_todays_is_taken_once_and_recorded(given: str | None) -> None:
    before = date.today().isoformat()  # noqa: DTZ011  (local time, as the template has it)
    renderer = get_renderer("gpt_oss", TOKENIZER, current_date=given)
    assert renderer.options["current_date"] in (before, date.today().isoformat())  # noqa: DTZ011
    text = shown(renderer, renderer.build_generation_prompt([USER]).to_ints())
    assert f"\nCurrent date: {renderer.options['current_date']}\n" in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"current_date": "2 May 2025"}, "current_date: expected YYYY-MM-DD; got '2 May 2025'"),
        ({"reasoning_effort": "huge"}, "reasoning_effort: expected one of low, medium, high; got 'huge'"),
        ({"builtin_tools": ["browser", "shell"]}, "builtin_tools: expected one of browser, python; got 'shell'"),
        ({"builtin_tools": "browser"}, "builtin_tools: expected list; got 'browser'"),
        ({"thinking": True}, "thinking: renderer gpt_oss has no such option"),
    ],
)
def test_faulty_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(OptionError) as caught:
        get_renderer("gpt_oss", TOKENIZER, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize("effort", ["low", "medium", "high"])
def test_cookbook_names_set_the_effort(effort: str) -> None:
    renderer = get_renderer(f"gpt_oss_{effort}_reasoning", TOKENIZER)
    assert f"\nReasoning: {effort}\n" in shown(renderer, renderer.build_generation_prompt([USER]).to_ints())


def test_without_the_system_block() -> None:
    renderer = get_renderer("gpt_oss_no_sysprompt", TOKENIZER)
    text = shown(renderer, renderer.build_generation_prompt([USER]).to_ints())
    assert text == "<|start|>user<|message|>Hi<|end|><|start|>assistant"


def test_an_identity_with_a_control_token_stays_text() -> None:
    renderer = get_renderer("gpt_oss", TOKENIZER, model_identity="I am <|end|>")
    tokens = renderer.build_generation_prompt([USER]).to_ints()
    assert tokens.count(TOKENIZER.control["<|end|>"].id) == 2
    assert "I am <|end|>" in shown(renderer, tokens)


def test_stops_are_the_end_of_an_answer_and_of_a_call() -> None:
    stops = get_renderer("gpt_oss", TOKENIZER).get_stop_sequences()
    assert [TOKENIZER.id_to_token(stop) for stop in stops] == ["<|return|>", "<|call|>"]


def test_analysis_and_answer_are_one_turn() -> None:
    renderer = get_renderer("gpt_oss_no_sysprompt", TOKENIZER)
    (example,) = renderer.render([USER, {"role": "assistant", "content": "Yes", "reasoning_content": "hm"}])
    assert shown(renderer, example.tokens[example.weights > 0]) == (
        "<|channel|>analysis<|message|>hm<|end|><|start|>assistant<|channel|>final<|message|>Yes<|return|>"
    )


def test_a_call_and_the_answer_to_its_result_share_a_sequence() -> None:
    renderer = get_renderer("gpt_oss_no_sysprompt", TOKENIZER)
    messages = [USER, {"role": "assistant", "tool_calls": [CALL]}, RESULT, {"role": "assistant", "content": "Yes"}]
    (example,) = renderer.render(messages)
    assert shown(renderer, example.tokens[example.weights > 0]) == (
        ' to=functions.f<|channel|>commentary json<|message|>{"city": "北京"}<|call|>'
        "<|channel|>final<|message|>Yes<|return|>"
    )


def test_an_answer_after_reasoning_that_it_takes_away_is_refused() -> None:
    renderer = get_renderer("gpt_oss_no_sysprompt", TOKENIZER)
    called = {"role": "assistant", "tool_calls": [CALL], "reasoning_content": "hm"}
    messages: list[Any] = [USER, called, RESULT, {"role": "assistant", "content": "Yes"}]
    block = renderer.render_block([Conversation(messages)])
    assert [(refusal.turn, refusal.reason) for refusal in block.refusals] == [(3, "prompt_disagrees")]
    assert shown(renderer, block[0].tokens).endswith("<|call|>")


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([USER, RESULT], "messages[1]:"),
        ([USER, {"role": "assistant", "content": "Yes"}, RESULT], "messages[2]:"),
        ([USER, {"role": "assistant", "content": "<|channel|>final<|message|>x"}], "messages[1].content:"),
        ([USER, {"role": "assistant", "content": "x", "reasoning_content": "y", "tool_calls": [CALL]}], "messages[1]:"),
        ([USER, {"role": "assistant", "content": "x", "tool_calls": []}], "messages[1].tool_calls:"),
        ([USER, {"role": "assistant"}], "messages[1].content:"),
    ],
)
def test_refusals_name_the_place(messages: list[Any], place: str) -> None:
    with pytest.raises(RefusedError) as caught:
        prompt(messages)
    assert str(caught.value).startswith(place)


def test_further_calls_of_a_message_are_counted_as_not_shown() -> None:
    renderer = get_renderer("gpt_oss", TOKENIZER)
    block = renderer.render_block([Conversation([USER, {"role": "assistant", "tool_calls": [CALL, CALL, CALL]}])])
    assert block.counts["tool_calls_not_shown"] == 2


def random_schema(rng: random.Random, depth: int = 0) -> dict[str, Any]:
    kinds = ["string", "number", "integer", "boolean", "object", "array", "other", ["string", "null"], ["object"], None]
    schema: dict[str, Any] = {"type": kind} if (kind := rng.choice(kinds)) is not None else {}
    if kind == "array" and rng.random() < 0.8:
        schema["items"] = random_schema(rng, depth + 1)
    if kind == "object" and depth < 3 and rng.random() < 0.8:
        schema["properties"] = {name: random_schema(rng, depth + 1) for name in rng.sample("abc", rng.randint(0, 2))}
        if rng.random() < 0.5:
            schema["required"] = list(schema["properties"])[:1]
    if depth < 3 and rng.random() < 0.2:
        schema["oneOf"] = [random_schema(rng, depth + 1) for _ in range(rng.randint(0, 3))]
    if rng.random() < 0.3:
        schema["enum"] = rng.choice([["x", "ü"], [1, None], []])
    if rng.random() < 0.3:
        schema["default"] = rng.choice(["x", 1, None, {"é": True}])
    if rng.random() < 0.3:
        schema["nullable"] = rng.random() < 0.7
    if rng.random() < 0.4:
        schema["description"] = rng.choice(["", "Stadt\n北京", "d"])
    return schema


def test_declarations_are_the_templates(real_data: Path) -> None:
    source = (real_data / "tokenizers" / "gpt-oss" / "chat_template.jinja").read_text(encoding="utf-8")
    reference, family = ChatTemplate(TOKENIZER, source), get_renderer("gpt_oss", TOKENIZER)
    rng = random.Random(7)
    refused = 0
    for number in range(300):
        properties = {name: random_schema(rng) for name in rng.sample(["city", "ключ", "n"], rng.randint(0, 3))}
        parameters = {"type": "object", "properties": properties, "required": list(properties)[:1]}
        function = {"name": f"f{number}", "description": rng.choice(["", "Does\nthings"]), "parameters": parameters}
        results = []
        for renderer in (reference, family):
            try:
                tokens = renderer.build_generation_prompt([USER], tools=[{"type": "function", "function": function}])
                results.append(shown(renderer, tokens.to_ints()))
            except RefusedError:
                results.append(None)
        refused += results[0] is None
        assert results[0] == results[1], function
    assert refused < 150

"""Each way of writing a turn, spelled out: good turns, broken ones, and text that only looks like marks."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from renderers import ParseTermination, Renderer, StreamParser
from renderers.parsing import Endings, formats
from renderers.parsing.formats import CHATML, HARMONY, MISTRAL, QWEN3, QWEN3_5, ROLE_COLON, ResponseFormat
from tests.renderers.parsing.renderers_at_hand import renderer_of

CLEAN, BROKEN, CUT = ParseTermination.STOP_SEQUENCE, ParseTermination.MALFORMED, ParseTermination.LENGTH


def parse(
    form: ResponseFormat, text: str, stop: str | None = "<|im_end|>", tools: Any = None
) -> tuple[Any, ParseTermination]:
    """Parse `text`, in which control tokens are live."""
    tokenizer = renderer_of(("tiny-all", "kimi_k2", ())).tokenizer
    stops = [tokenizer.control[stop].id] if stop and stop in tokenizer.control else [stop] if stop else []
    parser = StreamParser(form, tokenizer, Endings.of(tokenizer, stops), tools=tools)  # type: ignore[arg-type]
    parser.feed(tokenizer.encode(text))
    return parser.finish()


def call(name: str, arguments: dict[str, Any], call_id: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"type": "function", "function": {"name": name, "arguments": arguments}}
    return {**found, "id": call_id} if call_id else found


VECTORS = json.loads((Path(__file__).parent / "vectors" / "responses.json").read_text(encoding="utf-8"))


def vectors(kind: str) -> list[Any]:
    return [pytest.param(row, id=f"{row['format']}-{i}") for i, row in enumerate(VECTORS[kind])]


@pytest.mark.parametrize("row", vectors("good"))
def test_good_turns(row: dict[str, Any]) -> None:
    form, text = getattr(formats, row["format"]), row["text"]
    assert parse(form, text) == (row["message"], CLEAN)
    cut, termination = parse(form, text.removesuffix("<|im_end|>"))
    assert termination is CUT
    assert cut.get("reasoning_content") == row["message"].get("reasoning_content")


@pytest.mark.parametrize("row", vectors("unparsed"))
def test_broken_calls_are_kept(row: dict[str, Any]) -> None:
    message, termination = parse(getattr(formats, row["format"]), row["text"] + "<|im_end|>")
    assert termination is CLEAN
    assert "tool_calls" not in message
    (unparsed,) = message["unparsed_tool_calls"]
    assert row["reason"] in unparsed["reason"]
    assert unparsed["raw"] in row["text"]


def test_json_nested_beyond_all_measure_is_a_broken_call() -> None:
    message, termination = parse(CHATML, f"<tool_call>{'[' * 100_000}</tool_call><|im_end|>")
    assert termination is CLEAN
    assert "expected JSON" in message["unparsed_tool_calls"][0]["reason"]


def test_a_broken_call_does_not_spoil_its_neighbours() -> None:
    good = '<tool_call>{"name": "f", "arguments": {}}</tool_call>'
    message, _ = parse(CHATML, f"{good}<tool_call>no</tool_call>{good}<|im_end|>")
    assert [c["function"]["name"] for c in message["tool_calls"]] == ["f", "f"]
    assert message["unparsed_tool_calls"][0]["raw"] == "<tool_call>no</tool_call>"
    listed = '[TOOL_CALLS][{"name": "f", "arguments": {}}, {"name": 1}, {"name": "g", "arguments": {}}]<|im_end|>'
    message, termination = parse(MISTRAL, listed)
    assert [c["function"]["name"] for c in message["tool_calls"]] == ["f", "g"]
    assert len(message["unparsed_tool_calls"]) == 1
    assert termination is CLEAN


@pytest.mark.parametrize(
    ("form", "text", "content"),
    [
        (QWEN3, "<think>\nHm", ""),
        (QWEN3, "a<|im_start|>b", "a<|im_start|>b"),
        (HARMONY, "<|channel|>analysis<|message|>x<|end|>loose", "loose"),
        (HARMONY, "<|channel|>final", "final"),
        (HARMONY, "<|channel|>nowhere<|message|>x", "x"),
        (HARMONY, "<|message|>x", "x"),
        (MISTRAL, '[TOOL_CALLS]{"name": "f", "arguments": {}}', ""),
    ],
)
def test_broken_structure_is_malformed(form: ResponseFormat, text: str, content: str) -> None:
    message, termination = parse(form, text + "<|im_end|>")
    assert (message["content"], termination) == (content, BROKEN)
    assert not termination.is_clean
    assert termination  # every value is truthy, which is why `is_clean` is there


def test_how_a_turn_ends() -> None:
    assert parse(QWEN3, "a<|im_end|>")[1] is CLEAN
    assert parse(QWEN3, "a<|endoftext|>")[1] is ParseTermination.EOS
    assert parse(QWEN3, "a")[1] is CUT
    assert parse(QWEN3, "")[1] is CUT
    assert parse(QWEN3, "<|im_end|>") == ({"role": "assistant", "content": ""}, CLEAN)
    assert parse(QWEN3, "a<|im_end|>\n") == ({"role": "assistant", "content": "a"}, BROKEN)
    assert parse(QWEN3, "a<|im_end|><|im_end|>")[1] is BROKEN


def test_text_that_stops_a_base_model() -> None:
    stop = "\n\nUser:"
    assert parse(ROLE_COLON, " One\n\nTwo\n\nUser:", stop) == ({"role": "assistant", "content": "One\n\nTwo"}, CLEAN)
    assert parse(ROLE_COLON, " One\n\nUse", stop) == ({"role": "assistant", "content": "One\n\nUse"}, CUT)
    assert parse(ROLE_COLON, " One\n\nUser: more, and more", stop)[0]["content"] == "One"
    assert parse(ROLE_COLON, " One<|endoftext|>", stop)[1] is ParseTermination.EOS


@pytest.mark.parametrize("mark", ["<think>", "</think>", "<tool_call>", "</tool_call>", "<|im_end|>", "<|im_start|>"])
def test_marks_are_known_by_id_never_by_spelling(mark: str) -> None:
    renderer = renderer_of(("tiny-chat", "qwen3", ()))
    tokenizer = renderer.tokenizer
    spelled = tokenizer.encode_text(f"{mark} is {mark}")
    assert not set(spelled) & tokenizer.control_ids
    end = tokenizer.control["<|im_end|>"].id
    message, termination = renderer.parse_response([*spelled, end])
    assert (message, termination) == ({"role": "assistant", "content": f"{mark} is {mark}"}, CLEAN)
    think, closing = tokenizer.control["<think>"].id, tokenizer.control["</think>"].id
    message, _ = renderer.parse_response([think, *spelled, closing, end])
    assert message["reasoning_content"] == f"{mark} is {mark}"
    arguments = tokenizer.encode_text('{"name": "f", "arguments": {"a": "</tool_call>"}}')
    opening = [tokenizer.control[text].id for text in ("<tool_call>", "</tool_call>")]
    message, _ = renderer.parse_response([opening[0], *arguments, opening[1], end])
    assert message["tool_calls"] == [call("f", {"a": "</tool_call>"})]


def test_the_prompt_may_have_opened_the_reasoning() -> None:
    renderer = renderer_of(("tiny-chat", "qwen3_5", ()))
    encode = renderer.tokenizer.encode
    completion = encode("Hm.\n</think>\n\nSo.<|im_end|>")
    wanted = {"role": "assistant", "reasoning_content": "Hm.", "content": "So."}
    assert renderer.parse_response(completion)[0] == wanted
    prompt = encode("<|im_start|>user\n<think>\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n")
    assert renderer.parse_response(completion, prompt_tokens=prompt)[0] == wanted
    closed = encode("<|im_start|>assistant\n<think>\n\n</think>\n\n")
    assert renderer.parse_response(encode("So.<|im_end|>"), prompt_tokens=closed)[0]["content"] == "So."
    assert "reasoning_content" not in renderer.parse_response(encode("So.<|im_end|>"), prompt_tokens=closed)[0]
    harmony = renderer_of(("tiny-all", "gpt_oss", (("current_date", "2025-06-01"),)))
    opened = harmony.tokenizer.encode("<|start|>assistant<|channel|>final<|message|>")
    answer = harmony.tokenizer.encode("Yes.<|return|>")
    assert harmony.parse_response(answer, prompt_tokens=opened) == ({"role": "assistant", "content": "Yes."}, CLEAN)


def test_declared_types_decide_about_bare_values() -> None:
    fields = {"text": {"type": "string"}, "n": {"type": "integer"}, "either": {"type": ["string", "integer"]}}
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": fields}}}]
    body = "".join(f"<parameter={key}>\n{value}\n</parameter>\n" for key, value in
                   (("text", "1"), ("n", "2"), ("either", "null"), ("other", "None")))  # fmt: skip
    text = f"<tool_call>\n<function=f>\n{body}</function>\n</tool_call><|im_end|>"
    with_types = parse(QWEN3_5, text, tools=tools)[0]["tool_calls"][0]["function"]["arguments"]
    assert with_types == {"text": "1", "n": 2, "either": "null", "other": None}
    without = parse(QWEN3_5, text)[0]["tool_calls"][0]["function"]["arguments"]
    assert without == {"text": 1, "n": 2, "either": None, "other": None}


def marks_of(renderer: Renderer) -> str:
    return renderer.response_format.name


def test_the_template_path_says_what_it_looks_for() -> None:
    assert marks_of(renderer_of(("tiny-chat", "chat_template", ()))) == (
        "reasoning in <think> (by token), tool calls after <tool_call> (by token), content as it is"
    )
    assert marks_of(renderer_of(("tiny-headers", "chat_template", ()))) == (
        "tool calls after <|python_tag|> (by token), trimmed content"
    )
    assert marks_of(renderer_of(("tiny-spm", "chat_template", ()))) == "content as it is"


def test_marks_that_are_no_tokens_are_found_as_text() -> None:
    from renderers import ChatTemplate

    headers = renderer_of(("tiny-headers", "llama3", ())).tokenizer
    template = (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>{% if m.reasoning_content %}"
        "<think>\n{{ m.reasoning_content }}\n</think>\n\n{% endif %}{{ m.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>{% endif %}"
    )
    renderer = ChatTemplate(headers, template)
    assert renderer.response_format.name == "reasoning in <think> (as text), content as it is"
    tokens = headers.encode("<think>\nHm.\n</think>\n\nSo <think.<|eot_id|>")
    parser = renderer.stream_parser()
    for token in tokens:
        parser.feed(token)
    assert parser.finish() == ({"role": "assistant", "reasoning_content": "Hm.", "content": "So <think."}, CLEAN)

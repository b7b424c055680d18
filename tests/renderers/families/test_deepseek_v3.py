from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from renderers import Conversation, OptionError, RefusedError, get_renderer
from renderers.jinja_template import ChatTemplateSource
from tests.renderers.families.tiny import shown, tiny_tokenizer
from tests.renderers.parity_cases import conversations

CONTROLS = tuple(
    f"<｜{name}｜>".replace("_", "▁")
    for name in (
        "begin_of_sentence", "end_of_sentence", "User", "Assistant", "tool_calls_begin", "tool_calls_end",
        "tool_call_begin", "tool_call_end", "tool_sep", "tool_outputs_begin", "tool_outputs_end", "tool_output_begin",
        "tool_output_end",
    )
)  # fmt: skip
TOKENIZER = tiny_tokenizer(CONTROLS, bos=CONTROLS[0], eos=CONTROLS[1])
CALL = {"type": "function", "function": {"name": "f", "arguments": {"city": "北京"}}}
USER = {"role": "user", "content": "Hi"}


@pytest.mark.slow
@pytest.mark.parametrize("case", ["tools", "parallel_calls", "text_arguments", "mixed"])
def test_null_content_writes_what_the_template_writes_for_nulls(case: str, real_data: Path) -> None:
    """transformers drops nulls before its templates see them, so the template is run here on messages with nulls."""
    source = (real_data / "tokenizers" / "deepseek-v3" / "chat_template.jinja").read_text(encoding="utf-8")
    template = ChatTemplateSource(source, {"bos_token": CONTROLS[0]})
    family = get_renderer("deepseek_v3", TOKENIZER, null_content=True)
    compared = 0
    for messages, tools in conversations(case, 40, seed=5):
        seen: Any = family._prepared(Conversation(messages)).messages
        seen = [{**m, "content": None} if "tool_calls" in m and "content" not in m else m for m in seen]
        compared += any(message.get("content", "") is None for message in seen)
        for generation in (True, False):
            try:
                expected = TOKENIZER.encode(template.render_visible(seen, tools, add_generation_prompt=generation))
            except RefusedError:
                expected = None
            try:
                if generation:
                    got = family.build_generation_prompt(messages, tools=tools).to_ints()
                else:
                    got = family.render(messages, "all_tokens", tools, turns="single")[0].tokens.tolist()
            except RefusedError:
                got = None
            assert got == expected
    assert compared >= 10


def test_a_lone_call_is_trained_as_the_template_writes_it() -> None:
    family = get_renderer("deepseek_v3", TOKENIZER, null_content=True)
    (example,) = family.render([USER, {"role": "assistant", "tool_calls": [CALL]}])
    assert shown(family, example.tokens[example.weights > 0]) == (
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n"
        '{"city": "北京"}\n```<｜tool▁call▁end｜>'
    )


def test_a_second_round_of_calls_is_written_unlike_its_prompt() -> None:
    family = get_renderer("deepseek_v3", TOKENIZER, null_content=True)
    messages = [USER, {"role": "assistant", "tool_calls": [CALL]}, {"role": "tool", "content": "21"}]
    with pytest.raises(RefusedError, match=r"messages\[3\]: the template writes these tool calls without") as caught:
        family.render([*messages, {"role": "assistant", "tool_calls": [CALL]}], "last_assistant_message")
    assert caught.value.reason == "prompt_disagrees"


def test_calls_without_content_are_refused_with_the_way_out() -> None:
    family = get_renderer("deepseek_v3", TOKENIZER)
    with pytest.raises(RefusedError, match=r"messages\[1\]\.content: .*null_content=True"):
        family.render([USER, {"role": "assistant", "tool_calls": [CALL]}])


def test_calls_beside_content_are_counted_as_not_shown() -> None:
    family = get_renderer("deepseek_v3", TOKENIZER)
    block = family.render_block([Conversation([USER, {"role": "assistant", "content": "", "tool_calls": [CALL]}])])
    assert block.counts["tool_calls_not_shown"] == 1


def test_late_system_text_stands_at_the_front_and_splits_what_came_before() -> None:
    family = get_renderer("deepseek_v3", TOKENIZER)
    yes = {"role": "assistant", "content": "Yes"}
    first, second = family.render([USER, yes, {"role": "system", "content": "Be kind"}, USER, yes])
    assert shown(family, first.tokens) == "<｜begin▁of▁sentence｜><｜User｜>Hi<｜Assistant｜>Yes<｜end▁of▁sentence｜>"
    assert shown(family, second.tokens).startswith("<｜begin▁of▁sentence｜>Be kind<｜User｜>Hi")


@pytest.mark.parametrize("name", ["deepseekv3", "deepseekv3_disable_thinking"])
def test_cookbook_names(name: str) -> None:
    assert get_renderer(name, TOKENIZER).name == "deepseek_v3"


def test_there_is_no_thinking_mode() -> None:
    with pytest.raises(OptionError, match="no thinking mode"):
        get_renderer("deepseekv3_thinking", TOKENIZER)

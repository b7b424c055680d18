"""Nemotron 3: which turns agree with their prompt, and what the history keeps."""

from __future__ import annotations

from typing import Any

import pytest

from renderers import RefusedError, get_renderer
from tests.renderers.vectors import tiny_tokenizer

WORDS = ("<|im_start|>", "<|im_end|>", "<think>", "</think>", "<tool_call>", "</tool_call>")
QUESTION = {"role": "user", "content": "Why?"}
PLAIN = {"role": "assistant", "content": "So."}
THOUGHT = {"role": "assistant", "content": "So.", "reasoning_content": "hm"}


def renderer_of(name: str = "nemotron3", **options: Any) -> Any:
    tokens = [{"content": word, "special": False, "lstrip": False, "rstrip": False} for word in WORDS]
    return get_renderer(name, tiny_tokenizer(tokens, {}), **options)


def own_turn(renderer: Any, messages: list[dict[str, Any]]) -> str:
    (example,) = renderer.render(messages, "last_assistant_message")
    return renderer.tokenizer.decode(example.tokens[example.weights > 0].tolist())


def test_a_turn_must_do_what_its_prompt_began() -> None:
    thinking, quiet = renderer_of(), renderer_of("nemotron3_disable_thinking")
    assert own_turn(thinking, [QUESTION, THOUGHT]) == "hm\n</think>\nSo.<|im_end|>"
    assert own_turn(quiet, [QUESTION, PLAIN]) == "So.<|im_end|>"
    with pytest.raises(RefusedError, match="expected a turn with reasoning, as thinking=True"):
        thinking.build_supervised_example([QUESTION, PLAIN])
    with pytest.raises(RefusedError, match="expected a turn without reasoning, as thinking=False"):
        quiet.build_supervised_example([QUESTION, THOUGHT])


def test_history_is_cut_or_kept() -> None:
    messages = [QUESTION, THOUGHT, QUESTION, THOUGHT]
    assert len(renderer_of().render(messages)) == 2
    kept = renderer_of("nemotron3_preserve_thinking")
    assert kept.has_extension_property
    (example,) = kept.render(messages)
    assert kept.tokenizer.decode(example.tokens.tolist()).count("hm") == 2
    assert kept.template_variables() == {"enable_thinking": True, "truncate_history_thinking": False}


def test_a_think_block_typed_into_an_answer_is_the_templates() -> None:
    renderer = renderer_of()
    typed = {"role": "assistant", "content": "<think>\nhm\n</think>\nSo."}
    written = renderer.render([QUESTION, typed])[0].tokens.tolist()
    assert written == renderer.render([QUESTION, THOUGHT])[0].tokens.tolist()
    asked = [{"role": "user", "content": "<think>\nhm\n</think>"}]
    prompt = renderer.build_generation_prompt(asked).to_ints()
    assert prompt.count(renderer.tokenizer.control["<think>"].id) == 1  # the prompt's own; what users type stays text

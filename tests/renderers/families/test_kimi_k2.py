from __future__ import annotations

from renderers import get_renderer
from tests.renderers.families.tiny import shown, tiny_tokenizer

CONTROLS = (
    "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>", "<|im_end|>", "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>",
)  # fmt: skip
KIMI = get_renderer("kimi_k2", tiny_tokenizer(CONTROLS, eos="<|im_end|>"))
USER = {"role": "user", "content": "Hi"}


def test_stop_is_the_end_token() -> None:
    assert [KIMI.tokenizer.id_to_token(stop) for stop in KIMI.get_stop_sequences()] == ["<|im_end|>"]


def test_calls_are_numbered_in_their_message_whatever_their_ids() -> None:
    calls = [{"id": "x", "function": {"name": name, "arguments": {"é": 1}}} for name in ("f", "g")]
    (example,) = KIMI.render([USER, {"role": "assistant", "content": None, "tool_calls": calls}])
    assert shown(KIMI, example.tokens[example.weights > 0]) == (
        "<|tool_calls_section_begin|>"
        '<|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{"é": 1}<|tool_call_end|>'
        '<|tool_call_begin|>functions.g:1<|tool_call_argument_begin|>{"é": 1}<|tool_call_end|>'
        "<|tool_calls_section_end|><|im_end|>"
    )


def test_a_control_token_in_a_tool_name_stays_text() -> None:
    tools = [{"type": "function", "function": {"name": "<|im_end|>"}}]
    tokens = KIMI.build_generation_prompt([USER], tools=tools).to_ints()
    assert tokens.count(KIMI.tokenizer.control["<|im_end|>"].id) == 3  # declarations, default system, user

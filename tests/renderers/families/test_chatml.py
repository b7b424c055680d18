"""Plain ChatML against the template that its docstring names; Qwen2.5's default system text."""

from __future__ import annotations

import pytest

from renderers import ChatTemplate, RefusedError, get_renderer, get_tokenizer
from tests.renderers.parity_cases import conversations
from tests.renderers.vectors import SMALL

TEMPLATE = (
    "{% for message in messages %}{{ '<|im_start|>' + message.role + '\n' + message.content + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.mark.parametrize(
    "case", ["plain", "edge_whitespace", "world_text", "same_role", "odd_system", "control_tokens"]
)
def test_plain_chatml_is_its_template(case: str) -> None:
    tokenizer = get_tokenizer(SMALL)
    family, template = get_renderer("chatml", tokenizer), ChatTemplate(tokenizer, TEMPLATE)
    for messages, _ in conversations(case, 10):
        assert family.build_generation_prompt(messages) == template.build_generation_prompt(messages)
        ours, theirs = family.render(messages), template.render(messages)
        assert [e.tokens.tolist() for e in ours] == [e.tokens.tolist() for e in theirs]
        assert [e.weights.tolist() for e in ours] == [e.weights.tolist() for e in theirs]


def test_plain_chatml_refuses_tools() -> None:
    renderer = get_renderer("chatml", get_tokenizer(SMALL))
    call = {"type": "function", "function": {"name": "f", "arguments": {}}}
    with pytest.raises(RefusedError, match=r"messages\[1\]\.tool_calls"):
        renderer.build_generation_prompt(
            [{"role": "user", "content": "Hi"}, {"role": "assistant", "tool_calls": [call]}]
        )
    with pytest.raises(RefusedError, match="tools: renderer chatml has no form for tools"):
        renderer.build_generation_prompt([{"role": "user", "content": "Hi"}], tools=[{"type": "function"}])


def test_qwen25_default_system_is_an_option() -> None:
    tokenizer = get_tokenizer(SMALL)
    messages = [{"role": "user", "content": "Hi"}]
    own = get_renderer("qwen2.5", tokenizer).build_generation_prompt(messages).to_ints()
    assert "created by Alibaba Cloud" in tokenizer.decode(own)
    other = get_renderer("qwen2.5", tokenizer, default_system="Be brief.").build_generation_prompt(messages).to_ints()
    assert tokenizer.decode(other).startswith("<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi")
    brought = [{"role": "system", "content": "Be brief."}, *messages]
    assert get_renderer("qwen2.5", tokenizer).build_generation_prompt(brought).to_ints() == other

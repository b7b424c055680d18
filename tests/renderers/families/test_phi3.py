from __future__ import annotations

from typing import Any

import pytest

from renderers import Conversation, get_renderer
from tests.renderers.families.tiny import differences, shown, tiny_tokenizer
from tests.renderers.parity_cases import CASES

CONTROLS = ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>", "<|endoftext|>")
TEMPLATE = (
    "{%- for m in messages -%}{%- if m.role in ['user', 'assistant'] or m.role == 'system' and SYSTEM -%}"
    "{{ '<|' + m.role + '|>\\n' + m['content'] + '<|end|>\\n' }}{%- endif -%}{%- endfor -%}"
    "{{ '<|assistant|>\\n' if add_generation_prompt else eos_token }}"
)


@pytest.mark.parametrize(("empty_system", "condition"), [(False, "m['content']"), (True, "true")])
@pytest.mark.parametrize("rstrip", [False, True])
def test_writes_what_the_template_writes(empty_system: bool, condition: str, rstrip: bool) -> None:
    tokenizer = tiny_tokenizer(CONTROLS, eos="<|endoftext|>", rstrip=rstrip)
    family = get_renderer("phi3", tokenizer, empty_system=empty_system)
    assert differences(family, TEMPLATE.replace("SYSTEM", condition), list(CASES), 4) == []


def test_turns_stop_at_the_end_token_and_never_hold_the_end_of_text() -> None:
    tokenizer = tiny_tokenizer(CONTROLS, eos="<|endoftext|>", rstrip=True)
    family = get_renderer("phi3", tokenizer)
    assert [tokenizer.id_to_token(stop) for stop in family.get_stop_sequences()] == ["<|end|>", "<|endoftext|>"]
    (example,) = family.render([{"role": "user", "content": " Hi"}, {"role": "assistant", "content": "Yes"}])
    # White space after a control token is swallowed by it, the content's own too.
    assert shown(family, example.tokens) == "<|user|>Hi<|end|><|assistant|>Yes<|end|>"
    assert shown(family, example.tokens[example.weights > 0]) == "Yes<|end|>"


def test_white_space_that_a_trained_turn_starts_with_is_kept_and_counted() -> None:
    """A model says it after a prompt that has swallowed its own; in history it would be swallowed."""
    family = get_renderer("phi3", tiny_tokenizer(CONTROLS, eos="<|endoftext|>", rstrip=True))
    messages: list[Any] = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "  Yes"}]
    block = family.render_block([Conversation(messages)])
    assert shown(family, block[0].tokens[block[0].weights > 0]) == "  Yes<|end|>"
    assert block.counts["header_merge"] == 1

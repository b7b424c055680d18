from __future__ import annotations

from renderers import get_renderer
from tests.renderers.families.tiny import differences, shown, tiny_tokenizer
from tests.renderers.parity_cases import CASES

CONTROLS = ("<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>")
TEMPLATE = (
    "{%- for m in messages -%}{{ (bos_token if loop.first else '') ~ '<|start_header_id|>' ~ m.role ~ "
    "'<|end_header_id|>\\n\\n' ~ (m['content'] | trim) ~ '<|eot_id|>' }}{%- endfor -%}"
    "{{ '<|start_header_id|>assistant<|end_header_id|>\\n\\n' if add_generation_prompt else '' }}"
)
TOKENIZER = tiny_tokenizer(CONTROLS, bos=CONTROLS[0], eos="<|eot_id|>")


def test_writes_what_the_template_writes() -> None:
    family = get_renderer("llama3.0", TOKENIZER)
    assert differences(family, TEMPLATE, list(CASES), 5) == []


def test_no_date_block_and_one_growing_sequence() -> None:
    family = get_renderer("llama3.0", TOKENIZER)
    messages = [{"role": "user", "content": " Hi "}, {"role": "assistant", "content": "Yes"}] * 2
    (example,) = family.render(messages)
    assert shown(family, example.tokens) == (
        "<|begin_of_text|>" + "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\nYes<|eot_id|>"
    )
    assert shown(family, example.tokens[example.weights > 0]) == "Yes<|eot_id|>Yes<|eot_id|>"

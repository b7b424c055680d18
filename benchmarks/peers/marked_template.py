"""A chat template with `{% generation %}` marks: what the assistant mask of transformers and TRL is computed from.

No stock template of these models carries the marks, so a user writes them; here they are put into the model's own
template, which then renders the same text.
"""

from __future__ import annotations

from pathlib import Path

_TURN = "{{- '<|im_start|>' + message.role + '\\n"
_THINKING = _TURN + "<think>\\n' + "
_PLAIN = _TURN + "' + content }}"
_OPEN = "{{- '<|im_start|>assistant\\n' }}{%- generation %}{{- turn }}"
_CLOSE = "{{- '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}"
_TOOL_CALLS = "{%- if message.tool_calls %}"
_END = "{{- '<|im_end|>\\n' }}"

CHATML = (
    "{%- for message in messages %}{{- '<|im_start|>' + message.role + '\\n' }}"
    "{%- if message.role == 'assistant' %}"
    "{%- generation %}{{- message.content + '<|im_end|>' }}{%- endgeneration %}{{- '\\n' }}"
    "{%- else %}{{- message.content + '<|im_end|>\\n' }}{%- endif %}{%- endfor %}"
)
"""For folders whose template is neither marked nor of the qwen3 kind."""


def marked_template(folder: Path) -> str:
    """The folder's template with marks around each assistant turn and its end token.

    A template of the qwen3 kind writes an assistant's header and text in one expression: the text moves into a
    variable, so that the mark can open between the two.
    """
    text = (folder / "chat_template.jinja").read_text(encoding="utf-8")
    if "generation %}" in text:
        return text
    start = text.find('{%- elif message.role == "assistant" %}')
    if start < 0 or _THINKING not in text or text.count(_PLAIN, start) != 2:
        return CHATML
    head, branch = text[:start], text[start:]
    branch = branch.replace(_THINKING, "{%- set turn = '<think>\\n' + ").replace(_PLAIN, "{%- set turn = content %}")
    lines = branch.split("\n")
    lines = [line.replace(" }}", " %}") if "set turn = '<think>" in line else line for line in lines]
    branch = "\n".join(lines)
    branch = branch.replace(_TOOL_CALLS, _OPEN + _TOOL_CALLS, 1)
    return head + branch.replace(_END, _CLOSE, 1)

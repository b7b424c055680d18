"""What families that call tools in XML share (Qwen3.5, Nemotron 3): the instruction, and parameters as text."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import RefusedError
from ..family import Pieces

__all__ = ["CALL_INSTRUCTION", "as_text", "check_arguments", "xml_call"]

CALL_INSTRUCTION = (
    "\n\nIf you choose to call a function ONLY reply in the following format with NO suffix:\n\n<tool_call>\n"
    "<function=example_function_name>\n<parameter=example_parameter_1>\nvalue_1\n</parameter>\n"
    "<parameter=example_parameter_2>\nThis is the value for the second parameter\nthat can span\nmultiple lines\n"
    "</parameter>\n</function>\n</tool_call>\n\n<IMPORTANT>\nReminder:\n- Function calls MUST follow the specified "
    "format: an inner <function=...></function> block must be nested within <tool_call></tool_call> XML tags\n"
    "- Required parameters MUST be specified\n- You may provide optional reasoning for your function call in natural "
    "language BEFORE the function call, but NOT after\n- If there is no function call available, answer the question "
    "like normal with your current knowledge and do not tell the user about function calls\n</IMPORTANT>"
)


def as_text(value: Any) -> str:
    """Objects and lists as JSON; anything else as Python prints it, which is how these templates write it."""
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (Mapping, list, tuple)) else str(value)


def check_arguments(arguments: Any, index: int) -> Mapping[str, Any]:
    """Arguments as an object; JSON text is refused, as the templates do."""
    if not isinstance(arguments, Mapping):
        raise RefusedError(
            f"messages[{index}].tool_calls",
            "template_refused",
            f"the chat template refuses it: expected arguments as an object; got {arguments!r}",
        )
    return arguments


def xml_call(function: Mapping[str, Any], index: int) -> Pieces:
    """`<tool_call>` to `</tool_call>` of message `index`, without line breaks around it."""
    pieces = ["<tool_call>\n<function=", function["name"], ">\n"]
    for key, value in check_arguments(function.get("arguments", {}), index).items():
        pieces[-1] += "<parameter="
        pieces += (key, ">\n", as_text(value), "\n</parameter>\n")
    pieces[-1] += "</function>\n</tool_call>"
    return tuple(pieces)

"""Text of gpt-oss's system and developer blocks: built-in tools, and function declarations as TypeScript.

The odd spellings (line breaks inside a union, no comma before some defaults) are the template's own.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any, cast

from ..errors import RefusedError
from ..messages import ToolSpec

__all__ = ["BUILTIN_TOOLS", "builtin_tools_text", "functions_text"]

_INDENT = " " * 16

_BROWSER = """\
## browser

// Tool for browsing.
// The `cursor` appears in brackets before each browsing display: `[{cursor}]`.
// Cite information from the tool using the following format:
// `【{cursor}†L{line_start}(-L{line_end})?】`, for example: `【6†L9-L11】` or `【8†L3】`.
// Do not quote more than 10 words directly from the tool output.
// sources=web (default: web)
namespace browser {

// Searches for information related to `query` and displays `topn` results.
type search = (_: {
query: string,
topn?: number, // default: 10
source?: string,
}) => any;

// Opens the link `id` from the page indicated by `cursor` starting at line number `loc`, showing `num_lines` lines.
// Valid link ids are displayed with the formatting: `【{id}†.*】`.
// If `cursor` is not provided, the most recent page is implied.
// If `id` is a string, it is treated as a fully qualified URL associated with `source`.
// If `loc` is not provided, the viewport will be positioned at the beginning of the document or centered on the most \
relevant passage, if available.
// Use this function without `id` to scroll to a new location of an opened page.
type open = (_: {
id?: number | string, // default: -1
cursor?: number, // default: -1
loc?: number, // default: -1
num_lines?: number, // default: -1
view_source?: boolean, // default: false
source?: string,
}) => any;

// Finds exact matches of `pattern` in the current page, or the page given by `cursor`.
type find = (_: {
pattern: string,
cursor?: number, // default: -1
}) => any;

} // namespace browser

"""
_PYTHON = """\
## python

Use this tool to execute Python code in your chain of thought. The code will not be shown to the user. This tool \
should be used for internal reasoning, but not for code that is intended to be visible to the user (e.g. when \
creating plots, tables, or files).

When you send a message containing Python code to python, it will be executed in a stateful Jupyter notebook \
environment. python will respond with the output of the execution or time out after 120.0 seconds. The drive at \
'/mnt/data' can be used to save and persist user files. Internet access for this session is UNKNOWN. Depends on the \
cluster.

"""
BUILTIN_TOOLS = {"browser": _BROWSER, "python": _PYTHON}
"""Text of each built-in tool, in the order the template writes them."""


def builtin_tools_text(names: Sequence[str]) -> str:
    """The system block's part on built-in tools; empty when there are none."""
    if not names:
        return ""
    return "# Tools\n\n" + "".join(text for name, text in BUILTIN_TOOLS.items() if name in names)


def functions_text(tools: Sequence[ToolSpec]) -> str:
    """All function declarations; raises `RefusedError` where the template raises."""
    declared = "".join(_function(tool, f"tools[{i}].function") for i, tool in enumerate(tools))
    return f"## functions\n\nnamespace functions {{\n\n{declared}}} // namespace functions"


def _function(tool: ToolSpec, place: str) -> str:
    function: Any = tool.get("function")
    for key in ("name", "description"):
        if not isinstance(_get(function, key), str):
            raise RefusedError(f"{place}.{key}", "template_refused", "expected a string, as the template shows it")
    parameters = _get(function, "parameters")
    properties = _get(parameters, "properties")
    text = f"// {function['description']}\ntype {function['name']} = "
    if not properties:
        return text + "() => any;\n\n"
    required = _get(parameters, "required") or []
    fields = [_parameter(name, spec, required, f"{place}.parameters") for name, spec in properties.items()]
    return text + "(_: {\n" + "".join(fields) + "}) => any;\n\n"


def _parameter(name: str, spec: Any, required: Sequence[str], place: str) -> str:
    description = _get(spec, "description")
    text = f"// {description}\n" if description else ""
    text += f"{name}{'' if name in required else '?'}: {_type(spec)}"
    if isinstance(spec, Mapping) and "default" in spec:
        default = cast("Any", spec)["default"]
        if _get(spec, "enum") or _get(spec, "oneOf"):
            if not isinstance(default, str):
                raise RefusedError(
                    f"{place}.properties.{name}.default", "template_refused", f"expected a string; got {default!r}"
                )
            text += f", // default: {default}" if _get(spec, "enum") else f"// default: {default}"
        else:
            text += f", // default: {_json(default)}"
    return text + ",\n"


def _type(spec: Any) -> str:
    """A JSON schema as the template's TypeScript."""
    kind = _get(spec, "type")
    if kind == "array":
        return _array(spec)
    if isinstance(kind, (list, tuple)) and kind:
        kinds = cast("Sequence[Any]", kind)
        return " | ".join(str(one) for one in kinds) if len(kinds) > 1 else str(kinds[0])
    if _get(spec, "oneOf"):
        return _union(_get(spec, "oneOf"))
    if kind == "string":
        if _get(spec, "enum"):
            return '"' + '" | "'.join(str(value) for value in _get(spec, "enum")) + '"'
        return "string | null" if _get(spec, "nullable") else "string"
    if kind in ("number", "integer"):
        return "number"
    if kind == "boolean":
        return "boolean"
    if kind == "object":
        return _object(spec)
    return "any"


def _array(spec: Any) -> str:
    items = _get(spec, "items")
    if not items:
        text = "any[]"
    else:
        plain = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}
        kind = _get(items, "type")
        inner = plain[kind] if isinstance(kind, str) and kind in plain else _type(items)
        text = "any[]" if inner == "object | object" or len(inner) > 50 else inner + "[]"
    return text + " | null" if _get(spec, "nullable") else text


def _union(variants: Sequence[Any]) -> str:
    text = ""
    for i, variant in enumerate(variants):
        text += _type(variant)
        description = _get(variant, "description")
        text += f"// {description}" if description else ""
        if isinstance(variant, Mapping) and "default" in variant:
            text += f"{_INDENT}    // default: {_json(cast('Any', variant)['default'])}"
        text += " | \n" if i < len(variants) - 1 else ""
    return text


def _object(spec: Any) -> str:
    properties = _get(spec, "properties")
    if not properties:
        return "object"
    required = _get(spec, "required") or []
    fields = [
        f"{name}{'' if name in required else '?'}: \n{_INDENT}{_type(inner)}" for name, inner in properties.items()
    ]
    return "{\n" + ", ".join(fields) + "}"


def _get(spec: Any, key: str) -> Any:
    return cast("Mapping[str, Any]", spec).get(key) if isinstance(spec, Mapping) else None


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)

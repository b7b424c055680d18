"""Tool declarations and tool calls: every spelling becomes OpenAI's, arguments always an object."""

from __future__ import annotations

from typing import Any, cast

from renderers import InputError, ToolCall, ToolSpec

from .validate import at, loads_exact, show, type_name

__all__ = ["parse_call", "parse_call_text", "parse_tool_calls", "parse_tools"]

_CALL_KEYS = frozenset({"id", "type", "function", "index"})
_FUNCTION_KEYS = frozenset({"name", "arguments"})


def parse_tools(value: Any, field: str) -> list[ToolSpec] | None:
    """Tool declarations from a list or a JSON string of one; bare functions are wrapped; nothing declared is None.

    Raises:
        InputError: `bad_tools`.
    """
    if isinstance(value, str):
        if not value.strip():
            return None
        try:
            value = loads_exact(value)
        except ValueError as fault:
            raise InputError(
                field, "bad_tools", f"expected a JSON list of tools; got {show(value)} ({fault})"
            ) from None
    if value is None or value == []:
        return None
    if not isinstance(value, list):
        raise InputError(field, "bad_tools", f"expected a list of tools; got {type_name(value)}")
    return [_tool(item, f"{field}[{i}]") for i, item in enumerate(cast("list[Any]", value))]


def _tool(value: Any, field: str) -> ToolSpec:
    if not isinstance(value, dict):
        raise InputError(field, "bad_tools", f"expected an object; got {type_name(value)}")
    tool = cast("dict[str, Any]", value)
    function: Any = tool.get("function")
    if isinstance(function, dict):
        if not isinstance(cast("dict[str, Any]", function).get("name"), str):
            raise InputError(f"{field}.function.name", "bad_tools", f"expected a string; got {show(function)}")
        return tool if "type" in tool else {"type": "function", **tool}
    if not isinstance(tool.get("name"), str):
        raise InputError(field, "bad_tools", f"expected a function with a name; got {show(tool)}")
    return {"type": "function", "function": {key: item for key, item in tool.items() if key != "type"}}


def parse_tool_calls(value: Any) -> list[ToolCall]:
    """A message's `tool_calls`; fields in faults are relative to it (`[0].function.arguments`).

    Raises:
        InputError: `bad_type`, `bad_tool_call`, `bad_tool_arguments`, `unknown_field`.
    """
    if not isinstance(value, list):
        raise InputError("", "bad_type", f"expected a list of tool calls; got {type_name(value)}")
    calls: list[ToolCall] = []
    for i, item in enumerate(cast("list[Any]", value)):
        try:
            calls.append(parse_call(item))
        except InputError as fault:
            raise at(f"[{i}]", fault) from None
    return calls


def parse_call(value: Any) -> ToolCall:
    """One call, in OpenAI's form or flat (`name`, `arguments`, perhaps `id`).

    Raises:
        InputError: `bad_tool_call`, `bad_tool_arguments`, `unknown_field`.
    """
    if not isinstance(value, dict):
        raise InputError("", "bad_tool_call", f"expected an object; got {type_name(value)}")
    call = cast("dict[str, Any]", value)
    function: Any = call.get("function")
    if function is None:
        outer = {key: item for key, item in call.items() if key not in _FUNCTION_KEYS}
        function = {key: item for key, item in call.items() if key in _FUNCTION_KEYS}
    else:
        outer = call
    _refuse_unknown(outer, _CALL_KEYS, "")
    kind: Any = call.get("type")
    if kind not in (None, "function"):
        raise InputError("type", "bad_tool_call", f"expected function; got {show(kind)}")
    where = "function" if "function" in call else ""
    result: ToolCall = {"type": "function", "function": cast("Any", _function(function, where))}
    call_id: Any = call.get("id")
    if call_id is not None:
        if not isinstance(call_id, str):
            raise InputError("id", "bad_tool_call", f"expected a string; got {type_name(call_id)}")
        result = {"type": "function", "id": call_id, "function": result["function"]}
    return result


def parse_call_text(value: Any) -> list[ToolCall]:
    """Calls written as JSON text: one object, or a list of them.

    Raises:
        InputError: `bad_tool_call` when the text is not JSON, else as `parse_call`.
    """
    if isinstance(value, str):
        try:
            value = loads_exact(value)
        except ValueError as fault:
            raise InputError("", "bad_tool_call", f"expected a call as JSON; got {show(value)} ({fault})") from None
    if isinstance(value, list):
        if not value:
            raise InputError("", "bad_tool_call", "expected at least one call; got an empty list")
        return parse_tool_calls(cast("list[Any]", value))
    return [parse_call(value)]


def _function(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise InputError(where, "bad_tool_call", f"expected an object; got {type_name(value)}")
    function = cast("dict[str, Any]", value)
    dot = f"{where}." if where else ""
    _refuse_unknown(function, _FUNCTION_KEYS, dot)
    name: Any = function.get("name")
    if not isinstance(name, str) or not name:
        raise InputError(f"{dot}name", "bad_tool_call", f"expected a function's name; got {show(name)}")
    return {"name": name, "arguments": _arguments(function.get("arguments"), f"{dot}arguments")}


def _arguments(value: Any, field: str) -> dict[str, Any]:
    arguments: Any = value
    if isinstance(value, str):
        try:
            arguments = loads_exact(value)
        except ValueError as fault:
            raise InputError(field, "bad_tool_arguments", f"expected JSON; got {show(value)} ({fault})") from None
    if not isinstance(arguments, dict):
        raise InputError(field, "bad_tool_arguments", f"expected an object; got {type_name(arguments)}: {show(value)}")
    return cast("dict[str, Any]", arguments)


def _refuse_unknown(value: dict[str, Any], known: frozenset[str], dot: str) -> None:
    for key, item in value.items():
        if key not in known and item is not None:
            raise InputError(f"{dot}{key}", "unknown_field", f"expected one of {', '.join(sorted(known))}; got {key!r}")

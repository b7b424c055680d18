"""JSON as models write it: objects read strictly, and parameter values that some formats write as bare text."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["CallError", "JsonEnd", "ParameterTypes", "read_object", "typed_value"]

ParameterTypes = Mapping[str, Mapping[str, Any]]
"""JSON schemas of a tool's parameters by name."""

_STRUCTURE = re.compile(r'["\\{}\[\]]')
_PYTHON = {"True": True, "False": False, "None": None}
_TYPES = {"string": str, "boolean": bool, "object": dict, "array": list, "null": type(None)}


class CallError(ValueError):
    """A tool call that cannot be read; the message is the reason."""


def read_object(text: str, what: str) -> dict[str, Any]:
    """A JSON object.

    Raises:
        CallError: it is not JSON (NaN and Infinity are not either), not an object, or names a key twice.
    """
    try:
        value = json.loads(text, object_pairs_hook=_unique, parse_constant=_no_constant)
    except CallError as error:
        raise CallError(f"{what}: {error}") from None
    except (ValueError, RecursionError) as error:
        raise CallError(f"{what}: expected JSON; {error}") from None
    if isinstance(value, str) and text.lstrip().startswith('"'):
        return read_object(value, what)  # an object written as text, as some templates quote it
    if not isinstance(value, dict):
        raise CallError(f"{what}: expected a JSON object; got {text.strip()[:40]!r}")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise CallError(f"expected each key once; got {max(names, key=names.count)!r} twice")
    return found


def _no_constant(name: str) -> Any:
    raise CallError(f"expected JSON; got {name}")


def parameter_types(tools: Sequence[Mapping[str, Any]] | None) -> dict[str, ParameterTypes]:
    """Parameter schemas by tool name; a tool declared without them has none."""
    found: dict[str, ParameterTypes] = {}
    for tool in tools or ():
        function = tool.get("function", tool)
        parameters = function.get("parameters") or {}
        found[str(function.get("name"))] = parameters.get("properties") or {}
    return found


def typed_value(text: str, schema: Mapping[str, Any] | None, *, python: bool) -> Any:
    """The value of a parameter that the format writes without quotes.

    The text alone cannot tell the string `1` from the number: the declared type decides, and without a declaration
    what reads as a JSON value other than a string is that value.

    Args:
        text: as sampled.
        schema: the parameter's JSON schema, or None.
        python: the template writes booleans and null as Python does.
    """
    declared = (schema or {}).get("type")
    types = [declared] if isinstance(declared, str) else list(declared or ())
    if types == ["string"]:
        return text
    value = _bare(text, python=python)
    if types and not any(_is(value, name) for name in types) and "string" in types:
        return text
    return value


def _bare(text: str, *, python: bool) -> Any:
    if python and text in _PYTHON:
        return _PYTHON[text]
    try:
        value = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError):
        return text
    return text if isinstance(value, str) else value


def _is(value: Any, name: str) -> bool:
    if name in ("integer", "number"):
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    return isinstance(value, _TYPES.get(name, ()))


class JsonEnd:
    """Finds where the JSON object ends whose text is fed from its first brace on."""

    def __init__(self) -> None:
        self._depth = 0
        self._in_string = False
        self._position = 0  # characters fed before this chunk
        self._escaped = -1  # position of a character after a backslash

    def feed(self, text: str) -> int | None:
        """How much of `text` belongs to the object when it ends here, else None."""
        for match in _STRUCTURE.finditer(text):
            character, place = match.group(), self._position + match.start()
            if place == self._escaped:
                continue
            if self._in_string:
                if character == "\\":
                    self._escaped = place + 1
                elif character == '"':
                    self._in_string = False
            elif character == '"':
                self._in_string = True
            elif character in "{[":
                self._depth += 1
            elif character in "}]":
                self._depth -= 1
                if self._depth <= 0:
                    return match.end()
        self._position += len(text)
        return None

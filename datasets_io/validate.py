"""Checks that every input form shares. Each fault is an `InputError` with field, reason and detail."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any, NoReturn, cast

import orjson

from renderers import InputError, Message

__all__ = [
    "at",
    "check_turns",
    "decode_row",
    "exact_row",
    "expect_text",
    "has_wide_number",
    "loads_exact",
    "show",
    "type_name",
]

_WIDE = float(2**63)
_TYPE_NAMES: dict[type[Any], str] = {
    bool: "a boolean",
    dict: "an object",
    float: "a number",
    int: "a number",
    list: "a list",
    str: "a string",
    type(None): "null",
}


def show(value: object, limit: int = 80) -> str:
    """`value` for an error message, cut to `limit` characters."""
    text = repr(value)
    return text if len(text) <= limit else f"{text[:limit]}…"


def type_name(value: object) -> str:
    """A JSON value's type as people call it.

    >>> type_name(None), type_name([])
    ('null', 'a list')
    """
    return _TYPE_NAMES.get(type(value), type(value).__name__)


def at(place: str, fault: InputError) -> InputError:
    """The same fault one level further out: `role` inside `messages[2]` is `messages[2].role`."""
    joint = "." if fault.field and not fault.field.startswith("[") else ""
    return InputError(f"{place}{joint}{fault.field}", fault.reason, fault.detail)


def expect_text(value: object, field: str, reason: str = "bad_type") -> str:
    """`value` itself when it is a string.

    Raises:
        InputError: `missing_content` for null, else `reason`.
    """
    if isinstance(value, str):
        return value
    if value is None:
        raise InputError(field, "missing_content", "expected a string; got null")
    raise InputError(field, reason, f"expected a string; got {type_name(value)}")


def check_turns(messages: Sequence[Message], field: str) -> None:
    """There is something to read and something to train on.

    Raises:
        InputError: `no_messages` or `no_assistant`.
    """
    if not messages:
        raise InputError(field, "no_messages", "expected at least one message; got an empty list")
    if not any(message["role"] == "assistant" for message in messages):
        roles = ", ".join(message["role"] for message in messages[:8])
        raise InputError(field, "no_assistant", f"expected at least one assistant message; got only {roles}")


def has_wide_number(value: object) -> bool:
    """Whether a float of 2**63 or more is inside: orjson reads integers over 64 bits as floats."""
    stack = [value]
    while stack:
        item = stack.pop()
        kind = type(item)
        if kind is str:
            continue
        if kind is dict:
            stack.extend(cast("dict[str, object]", item).values())
        elif kind is list:
            stack.extend(cast("list[object]", item))
        elif kind is float and not -_WIDE < cast("float", item) < _WIDE:
            return True
    return False


def loads_exact(text: str | bytes) -> Any:
    """JSON as orjson reads it, integers of any size kept exactly.

    Raises:
        ValueError: not JSON (NaN, infinity and lone surrogates included).
    """
    value = orjson.loads(text)
    return json.loads(text) if has_wide_number(value) else value


def decode_row(raw: bytes, line: int = 1) -> Any:
    """The value in one row's bytes, as fast as can be; `exact_row` mends integers over 64 bits.

    Args:
        line: line of the file where the row starts, for the place of a fault; columns on that line count from the
            row's first byte that is not whitespace.

    Raises:
        InputError: `invalid_json`, `invalid_utf8`, `lone_surrogate`, `number_range`, `too_deep`.
    """
    try:
        return orjson.loads(raw)
    except orjson.JSONDecodeError as fault:
        return _decode_slowly(raw, line, fault)


def exact_row(raw: bytes, row: Any, line: int = 1) -> Any:
    """`row` itself, or read again with integers of any size when orjson may have made floats of them.

    Raises:
        InputError: `number_range`.
    """
    return _decode_slowly(raw, line, None) if has_wide_number(row) else row


def _decode_slowly(raw: bytes, line: int, fault: orjson.JSONDecodeError | None) -> Any:
    """What the standard library makes of a row that orjson refuses or reads with loss: the value or the reason."""
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError as bad:
        detail = f"expected UTF-8; got byte 0x{raw[bad.start]:02x} at byte {bad.start} of the row"
        raise InputError("", "invalid_utf8", detail) from None
    if fault is not None and fault.msg.startswith("depth limit"):
        raise InputError("", "too_deep", "expected at most 1024 nested levels; got more") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite_float)
    except _NumberError as bad:
        raise InputError("", "number_range", f"expected finite numbers; got {bad}") from None
    except RecursionError:
        raise InputError("", "too_deep", "expected at most 1024 nested levels; got more") from None
    except json.JSONDecodeError as bad:
        _refuse_json(text, line, fault or bad)
    except ValueError:  # an integer with more digits than Python reads
        raise InputError("", "number_range", "expected numbers with at most 4300 digits; got more") from None
    surrogate = _surrogate_field(value)
    if surrogate is not None:
        field, code = surrogate
        raise InputError(field, "lone_surrogate", f"expected whole characters; got the lone surrogate \\u{code:04x}")
    return value


class _NumberError(Exception):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NumberError(name)


def _finite_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _NumberError(show(text, 40))
    return value


def _refuse_json(text: str, first_line: int, fault: json.JSONDecodeError) -> NoReturn:
    # Inside array elements a carriage return stands for the file's line break.
    before = text[: fault.pos]
    line, column = first_line + before.count("\r"), fault.pos - before.rfind("\r")
    near = show(text[max(0, fault.pos - 20) : fault.pos + 20])
    detail = f"expected JSON; got an error at line {line}, column {column}: {fault.msg} (near {near})"
    raise InputError("", "invalid_json", detail) from None


def _surrogate_field(value: Any, field: str = "") -> tuple[str, int] | None:
    """Where the first lone surrogate is, and which."""
    if isinstance(value, str):
        code = next((ord(char) for char in value if 0xD800 <= ord(char) <= 0xDFFF), None)
        return None if code is None else (field, code)
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        for key, item in cast("dict[str, Any]", value).items():
            inner += [(field, key), (f"{field}.{key}" if field else key, item)]
    elif isinstance(value, list):
        inner = [(f"{field}[{i}]", item) for i, item in enumerate(cast("list[Any]", value))]
    return next((found for name, item in inner if (found := _surrogate_field(item, name)) is not None), None)

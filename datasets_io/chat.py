"""Lists of messages in OpenAI's form, current and legacy, and in ShareGPT's `from`/`value` form."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, TypeVar, cast

from renderers import ROLES, InputError, Message

from .content import parse_content
from .tool_fields import parse_call, parse_call_text, parse_tool_calls
from .validate import at, expect_text, show, type_name

__all__ = ["CHAT_ROLES", "SHAREGPT_ROLES", "is_plain", "normalise_messages", "normalise_turns"]

CHAT_ROLES = {role: role for role in ROLES} | {"function": "tool"}
"""Roles in `messages`; `function` is the old name of `tool`."""
SHAREGPT_ROLES = CHAT_ROLES | {
    "bing": "assistant",
    "chatgpt": "assistant",
    "function_call": "assistant",
    "gpt": "assistant",
    "human": "user",
    "observation": "tool",
}
"""Roles in `conversations`, whether the key is `from` or `role`."""

_Mark = TypeVar("_Mark", float, bool)
_REASONING_KEYS = ("reasoning_content", "reasoning", "thinking")
_WEIGHT_KEYS = ("weight", "loss_weight")
_TRAINABLE_KEYS = ("trainable", "train", "training", "masked")
_CALL_KEYS = ("tool_calls", "function_call")
_KNOWN_KEYS = frozenset(
    {"role", "content", "name", "tool_call_id", *_REASONING_KEYS, *_WEIGHT_KEYS, *_TRAINABLE_KEYS, *_CALL_KEYS}
)
_BODY_KEYS = frozenset({"role", "content"})
_MARK_KEYS = frozenset({*_WEIGHT_KEYS, *_TRAINABLE_KEYS})
# Keys that carry no meaning for a template; dropped and counted.
_IGNORED_KEYS = frozenset({"annotations", "created_at", "id", "timestamp"})


def is_plain(messages: Any) -> bool:
    """Whether a list of messages is already normal: role and text alone, an assistant among them.

    This is the fast path: nothing is copied, so it accepts exactly what `normalise_messages` would return unchanged.
    """
    if type(messages) is not list:
        return False
    has_assistant = False
    for message in cast("list[Any]", messages):
        if type(message) is not dict or len(cast("dict[str, Any]", message)) != 2:
            return False
        role: Any = cast("dict[str, Any]", message).get("role")
        content: Any = cast("dict[str, Any]", message).get("content")
        if type(content) is not str:
            return False
        if role == "assistant":
            if not content:
                return False
            has_assistant = True
        elif role != "user" and role not in ("system", "tool", "developer"):
            return False
    return has_assistant


def normalise_messages(value: Any, field: str, roles: Mapping[str, str], ignored: Counter[str]) -> list[Message]:
    """Messages with `role` and `content` keys.

    Args:
        value: the list as it came.
        field: its name, for faults.
        roles: accepted role names and what they become.
        ignored: counts dropped keys.

    Raises:
        InputError: at the first fault.
    """
    if not isinstance(value, list):
        raise InputError(field, "bad_type", f"expected a list of messages; got {type_name(value)}")
    messages: list[Message] = []
    for i, item in enumerate(cast("list[Any]", value)):
        try:
            messages.append(_message(item, roles, ignored))
        except InputError as fault:
            raise at(f"{field}[{i}]", fault) from None
    return messages


def normalise_turns(value: Any, field: str, ignored: Counter[str]) -> list[Message]:
    """Messages with `from` and `value` keys.

    Raises:
        InputError: at the first fault.
    """
    if not isinstance(value, list):
        raise InputError(field, "bad_type", f"expected a list of turns; got {type_name(value)}")
    messages: list[Message] = []
    for i, item in enumerate(cast("list[Any]", value)):
        try:
            messages.append(_turn(item, ignored))
        except InputError as fault:
            raise at(f"{field}[{i}]", fault) from None
    return messages


def _turn(item: Any, ignored: Counter[str]) -> Message:
    if not isinstance(item, dict):
        raise InputError("", "bad_type", f"expected an object with from and value; got {type_name(item)}")
    turn = cast("dict[str, Any]", item)
    text: Any = turn.get("value")
    if text and isinstance(text, str) and len(turn) == 2 and turn.get("from") != "function_call":
        return {"role": _role(turn.get("from"), SHAREGPT_ROLES, "from"), "content": text}
    for key in ("role", "content"):
        if turn.get(key) is not None:
            raise InputError(key, "conflict", f"expected from and value alone; got {key} as well")
    message = {key: field for key, field in turn.items() if key not in ("from", "value")}
    message |= {"role": turn.get("from"), "content": turn.get("value")}
    try:
        return _message(message, SHAREGPT_ROLES, ignored)
    except InputError as fault:
        raise InputError(_turn_field(fault.field), fault.reason, fault.detail) from None


def _turn_field(field: str) -> str:
    for ours, theirs in (("role", "from"), ("content", "value")):
        if field == ours or field.startswith((f"{ours}[", f"{ours}.")):
            return theirs + field[len(ours) :]
    return field


def _message(item: Any, roles: Mapping[str, str], ignored: Counter[str]) -> Message:
    if not isinstance(item, dict):
        raise InputError("", "bad_type", f"expected an object with role and content; got {type_name(item)}")
    source = cast("dict[str, Any]", item)
    named: Any = source.get("role")
    role = _role(named, roles, "role")
    if named == "function_call":
        source = _spelled_call(source)
    message: Message = {"role": role}
    extra = source.keys() - _BODY_KEYS
    content: Any = source.get("content")
    if content and isinstance(content, str) and extra <= _MARK_KEYS:  # nothing but text and weights
        message["content"] = content
    else:
        _check_keys(source, extra, ignored)
        _set_content(message, source, ignored)
        _set_names(message, source)
    if extra:
        _set_weights(message, source)
    return message


def _spelled_call(source: dict[str, Any]) -> dict[str, Any]:
    """A `function_call` turn has its calls as JSON text where others have content."""
    for key in _CALL_KEYS:
        if source.get(key) is not None:
            raise InputError(key, "conflict", f"expected the calls in a function_call turn's text; got {key} as well")
    try:
        return {**source, "content": None, "tool_calls": parse_call_text(source.get("content"))}
    except InputError as fault:
        raise at("content", fault) from None


def _role(named: Any, roles: Mapping[str, str], field: str) -> str:
    role = roles.get(named) if isinstance(named, str) else None
    if role is None:
        raise InputError(field, "unknown_role", f"expected one of {', '.join(roles)}; got {show(named)}")
    return role


def _check_keys(source: dict[str, Any], extra: set[str], ignored: Counter[str]) -> None:
    for key in sorted(extra - _KNOWN_KEYS):
        value = source[key]
        if value is None:
            continue
        if key not in _IGNORED_KEYS:
            raise InputError(key, "unknown_field", f"expected a field of a message; got {key!r}: {show(value)}")
        ignored[key] += 1


def _set_content(message: Message, source: dict[str, Any], ignored: Counter[str]) -> None:
    try:
        content = parse_content(source.get("content"), ignored)
    except InputError as fault:
        raise at("content", fault) from None
    is_assistant = message["role"] == "assistant"
    reasoning_key, reasoning = _reasoning(source, content.thinking)
    calls_key, calls = _calls(source)
    if calls and content.calls:
        raise InputError(calls_key, "conflict", "expected tool calls in one place; got tool_call parts as well")
    if content.calls:
        calls_key, calls = "content", content.calls
    if not is_assistant:
        for key, value in ((reasoning_key, reasoning), (calls_key, calls)):
            if value:
                raise InputError(key, "misplaced_field", f"expected it on an assistant message; got {message['role']}")
        reasoning = None
    if content.value is None and not calls:
        got = "null" if "content" in source else "nothing"
        raise InputError("content", "missing_content", f"expected a string or a list of parts; got {got}")
    if is_assistant and content.value == "" and not calls and not reasoning:
        raise InputError(
            "content", "empty_content", "expected text, reasoning or tool calls from the assistant; got ''"
        )
    if content.value is not None:
        message["content"] = content.value
    if reasoning is not None:
        message["reasoning_content"] = reasoning
    if calls:
        message["tool_calls"] = calls


def _reasoning(source: dict[str, Any], thinking: str | None) -> tuple[str, str | None]:
    found = {key: source[key] for key in _REASONING_KEYS if source.get(key) is not None}
    for key, value in found.items():
        expect_text(value, key)
    if thinking is not None:
        found["content"] = thinking
    key = next(iter(found), "")
    for other, value in found.items():
        if value != found[key]:
            raise InputError(other, "conflict", f"expected the same reasoning as in {key}; got {show(value)}")
    return key, found.get(key)


def _calls(source: dict[str, Any]) -> tuple[str, Any]:
    key = next((name for name in _CALL_KEYS if source.get(name) not in (None, [])), "tool_calls")
    value = source.get(key)
    if value in (None, []):
        return key, None
    if key == "tool_calls" and source.get("function_call") is not None:
        raise InputError("function_call", "conflict", "expected tool_calls or function_call; got both")
    try:
        return key, parse_tool_calls(value) if key == "tool_calls" else [parse_call(value)]
    except InputError as fault:
        raise at(key, fault) from None


def _set_names(message: Message, source: dict[str, Any]) -> None:
    name: Any = source.get("name")
    if name is not None:
        message["name"] = expect_text(name, "name")
    call_id: Any = source.get("tool_call_id")
    if call_id is None:
        return
    if message["role"] == "tool":
        message["tool_call_id"] = expect_text(call_id, "tool_call_id")
    elif call_id != "":
        raise InputError("tool_call_id", "misplaced_field", f"expected it on a tool message; got {message['role']}")


def _set_weights(message: Message, source: dict[str, Any]) -> None:
    weight = _agreed(source, _WEIGHT_KEYS, _number)
    trainable = _agreed(source, _TRAINABLE_KEYS, _flag)
    if weight is not None:
        message["weight"] = weight
    if trainable is not None:
        message["trainable"] = trainable


def _agreed(source: dict[str, Any], keys: tuple[str, ...], read: Callable[[Any, str], _Mark]) -> _Mark | None:
    """What the keys that are there say, when they say the same."""
    result: _Mark | None = None
    for key in keys:
        given: Any = source.get(key)
        if given is not None:
            value = read(given, key)
            if result is not None and value != result:
                raise InputError(key, "conflict", f"expected what {', '.join(keys)} say to agree; got {show(given)}")
            result = value
    return result


def _number(value: Any, key: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InputError(key, "bad_weight", f"expected a finite number; got {show(value)}")
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise InputError(key, "bad_weight", f"expected a finite number; got {show(value)}")
    return number


def _flag(value: Any, key: str) -> bool:
    if value not in (True, False):  # 0 and 1 included
        raise InputError(key, "bad_weight", f"expected true or false; got {show(value)}")
    return bool(value) != (key == "masked")

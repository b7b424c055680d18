"""Alpaca rows, prompt/completion rows, and lists of human/assistant pairs."""

from __future__ import annotations

from collections import Counter
from typing import Any, cast

from renderers import InputError, Message

from .chat import CHAT_ROLES, normalise_messages, normalise_turns
from .validate import at, expect_text, show, type_name

__all__ = ["alpaca_messages", "alpaca_prompt", "pair_messages", "prompt_completion_messages", "side_messages"]


def alpaca_messages(row: dict[str, Any]) -> list[Message]:
    """`history` pairs, then `instruction` and `input` joined by a line break, then `output`.

    Raises:
        InputError: naming the column.
    """
    return [*alpaca_prompt(row), _answer(row.get("output"), "output")]


def alpaca_prompt(row: dict[str, Any]) -> list[Message]:
    """An Alpaca row without its `output`.

    Raises:
        InputError: naming the column.
    """
    messages = _history(row.get("history"))
    texts = [expect_text(row.get("instruction"), "instruction", "bad_content")]
    if row.get("input") is not None:
        texts.append(expect_text(row["input"], "input", "bad_content"))
    prompt = "\n".join(text for text in texts if text)
    if not prompt:
        raise InputError("instruction", "empty_content", "expected an instruction or an input; got two empty strings")
    return [*messages, {"role": "user", "content": prompt}]


def pair_messages(value: Any, field: str) -> list[Message]:
    """`[{"human": …, "assistant": …}, …]`; other keys of a pair are refused.

    Raises:
        InputError: naming pair and key.
    """
    messages: list[Message] = []
    for i, item in enumerate(cast("list[Any]", value)):
        place = f"{field}[{i}]"
        if not isinstance(item, dict):
            raise InputError(place, "bad_type", f"expected an object with human and assistant; got {type_name(item)}")
        pair = cast("dict[str, Any]", item)
        unknown = next(
            (key for key, text in pair.items() if key not in ("human", "assistant") and text is not None), None
        )
        if unknown is not None:
            raise InputError(f"{place}.{unknown}", "unknown_field", f"expected human and assistant; got {unknown!r}")
        messages.append({"role": "user", "content": expect_text(pair.get("human"), f"{place}.human", "bad_content")})
        messages.append(_answer(pair.get("assistant"), f"{place}.assistant"))
    return messages


def prompt_completion_messages(row: dict[str, Any], ignored: Counter[str]) -> list[Message]:
    """`prompt` and `completion`, each a string, one message or a list of messages.

    Raises:
        InputError: naming column and message.
    """
    prompt = side_messages(row.get("prompt"), "prompt", "user", ignored)
    return prompt + side_messages(row.get("completion"), "completion", "assistant", ignored)


def side_messages(value: Any, field: str, role: str, ignored: Counter[str]) -> list[Message]:
    """Messages from a string (a message of `role`), one message, or a list of messages of either dialect.

    Raises:
        InputError: naming the field.
    """
    if isinstance(value, str):
        return [_answer(value, field) if role == "assistant" else {"role": role, "content": value}]
    if value is None:
        raise InputError(field, "missing_content", "expected a string or messages; got null")
    if isinstance(value, dict):
        try:
            return _list_messages([value], "", ignored)
        except InputError as fault:
            raise at(
                field, InputError(fault.field.removeprefix("[0]").removeprefix("."), fault.reason, fault.detail)
            ) from None
    if not isinstance(value, list):
        raise InputError(field, "bad_content", f"expected a string or messages; got {type_name(value)}")
    if not value:
        raise InputError(field, "no_messages", "expected at least one message; got an empty list")
    return _list_messages(cast("list[Any]", value), field, ignored)


def _list_messages(value: list[Any], field: str, ignored: Counter[str]) -> list[Message]:
    first: Any = value[0]
    if isinstance(first, dict) and "from" in first:
        return normalise_turns(value, field, ignored)
    return normalise_messages(value, field, CHAT_ROLES, ignored)


def _history(value: Any) -> list[Message]:
    if value is None:
        return []
    if not isinstance(value, list):
        raise InputError("history", "bad_type", f"expected a list of [question, answer] pairs; got {type_name(value)}")
    messages: list[Message] = []
    for i, item in enumerate(cast("list[Any]", value)):
        place = f"history[{i}]"
        if not isinstance(item, list) or len(cast("list[Any]", item)) != 2:
            raise InputError(place, "bad_type", f"expected a [question, answer] pair; got {show(item)}")
        question, answer = cast("list[Any]", item)
        messages.append({"role": "user", "content": expect_text(question, f"{place}[0]", "bad_content")})
        messages.append(_answer(answer, f"{place}[1]"))
    return messages


def _answer(value: Any, field: str) -> Message:
    text = expect_text(value, field, "bad_content")
    if not text:
        raise InputError(field, "empty_content", "expected text from the assistant; got ''")
    return {"role": "assistant", "content": text}

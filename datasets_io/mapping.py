"""Columns of other names, by an explicit mapping: `user=question,assistant=answer`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from renderers import InputError, Message, OptionError

from .validate import expect_text

__all__ = ["ColumnMapping", "mapped_messages", "parse_mapping", "renamed_row"]

_TURNS = ("system", "user", "assistant")
_COLUMNS = (
    "chosen",
    "completion",
    "conversation",
    "conversations",
    "history",
    "id",
    "input",
    "instruction",
    "messages",
    "output",
    "prompt",
    "rejected",
    "tools",
)


@dataclass(frozen=True, slots=True)
class ColumnMapping:
    """What columns mean.

    Attributes:
        turns: (role, column) in the order of the conversation; empty when columns are only renamed.
        columns: (known column, column in the data).
    """

    turns: tuple[tuple[str, str], ...]
    columns: tuple[tuple[str, str], ...]


def parse_mapping(text: str) -> ColumnMapping:
    """Read `role=column,…`: `system`, `user`, `assistant` make turns in the order given; known columns are renamed.

    >>> parse_mapping("user=question,assistant=answer").turns
    (('user', 'question'), ('assistant', 'answer'))

    Raises:
        OptionError: another form, an unknown name, or turns that do not end with the assistant's.
    """
    turns: list[tuple[str, str]] = []
    columns: list[tuple[str, str]] = []
    for item in text.split(","):
        name, equals, column = (part.strip() for part in item.partition("="))
        if not equals or not column:
            raise OptionError(f"map: expected name=column pairs joined by commas; got {item!r}")
        if name in _TURNS:
            turns.append((name, column))
        elif name not in _COLUMNS:
            raise OptionError(f"map: expected one of {', '.join((*_TURNS, *_COLUMNS))}; got {name!r}")
        elif name in dict(columns):
            raise OptionError(f"map: expected {name} once; got it twice")
        else:
            columns.append((name, column))
    roles = [role for role, _ in turns]
    if "system" in roles:  # the order of the others is the conversation's
        turns.insert(0, turns.pop(roles.index("system")))
    if roles.count("system") > 1 or [role for role, _ in turns][-1:] not in ([], ["assistant"]):
        raise OptionError(f"map: expected at most one system and assistant as the last turn; got {text!r}")
    if turns and any(name not in ("id", "tools") for name, _ in columns):
        raise OptionError(f"map: expected turns, or other columns renamed, not both; got {text!r}")
    if turns and not any(role == "user" for role, _ in turns):
        raise OptionError(f"map: expected a user column; got {text!r}")
    return ColumnMapping(tuple(turns), tuple(columns))


def renamed_row(row: dict[str, Any], mapping: ColumnMapping) -> dict[str, Any]:
    """The row under the names we know; a column that gave its place to a renamed one is not kept.

    Raises:
        InputError: `missing_column`.
    """
    for name, column in mapping.columns:
        if column not in row and name not in ("id", "tools"):
            raise _missing(row, column)
    taken = {column for _, column in mapping.columns}
    named = {name: row[column] for name, column in mapping.columns if column in row}
    return {key: value for key, value in row.items() if key not in taken and key not in named} | named


def mapped_messages(row: dict[str, Any], mapping: ColumnMapping) -> tuple[list[Message], frozenset[str]]:
    """Messages from the mapped columns, and the columns used. An absent or null system column is no system message.

    Raises:
        InputError: `missing_column`, `missing_content`, `bad_content`, `empty_content`.
    """
    messages: list[Message] = []
    for role, column in mapping.turns:
        if role == "system" and row.get(column) in (None, ""):
            continue
        if column not in row:
            raise _missing(row, column)
        text = expect_text(row[column], column, "bad_content")
        if role == "assistant" and not text:
            raise InputError(column, "empty_content", "expected text from the assistant; got ''")
        messages.append({"role": role, "content": text})
    return messages, frozenset(column for _, column in mapping.turns)


def _missing(row: dict[str, Any], column: str) -> InputError:
    return InputError(
        column, "missing_column", f"expected the mapped column {column!r}; got {', '.join(row) or 'no columns'}"
    )

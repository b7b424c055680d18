"""One row to conversations: which format it is, and everything around its messages."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any, cast

from renderers import Conversation, InputError, Message, ToolSpec

from .chat import CHAT_ROLES, SHAREGPT_ROLES, is_plain, normalise_messages, normalise_turns
from .instructions import alpaca_messages, alpaca_prompt, pair_messages, prompt_completion_messages, side_messages
from .mapping import ColumnMapping, mapped_messages, renamed_row
from .tool_fields import parse_tools
from .validate import check_turns, expect_text, type_name

__all__ = ["FORMATS", "convert_row"]

FORMATS = (
    "alpaca",
    "mapped",
    "openai",
    "preference",
    "prompt_completion",
    "sharegpt",
    "sharegpt_pairs",
    "sharegpt_roles",
)
"""Names under which rows are counted."""

_LISTS = ("messages", "conversations", "conversation")
_EXPECTED = (
    "messages, conversations, conversation, prompt and completion, instruction and output, or chosen and rejected"
    " (other columns need a mapping, such as user=question,assistant=answer)"
)


def convert_row(
    row: Any, place: str = "row", mapping: ColumnMapping | None = None, ignored: Counter[str] | None = None
) -> tuple[str, list[Conversation]]:
    """Normalise one row; the row may be changed or shared by the result.

    Args:
        row: a parsed JSON value.
        place: the row's stable name, such as `train.jsonl:17`; links the halves of a preference row.
        mapping: columns of other names.
        ignored: counts keys that were dropped because no template knows them.

    Returns:
        The format's name (one of `FORMATS`) and its conversations: one, or two for a preference row.

    Raises:
        InputError: the row's first fault.
    """
    if not isinstance(row, dict):
        raise InputError("", "not_an_object", f"expected an object; got {type_name(row)}")
    fields = cast("dict[str, Any]", row)
    counter = Counter[str]() if ignored is None else ignored
    if mapping is not None:
        fields = renamed_row(fields, mapping)
        if mapping.turns:
            messages, used = mapped_messages(fields, mapping)
            return "mapped", [_conversation(fields, messages, used, "messages")]
    if fields.get("chosen") is not None and "rejected" in fields:
        return "preference", _preference(fields, place, counter)
    for key in _LISTS:
        if fields.get(key) is not None:
            name, messages = _from_list(fields[key], key, counter)
            return name, [_conversation(fields, messages, (key,), key)]
    if "prompt" in fields and "completion" in fields:
        messages = prompt_completion_messages(fields, counter)
        return "prompt_completion", [_conversation(fields, messages, ("prompt", "completion"), "completion")]
    if "instruction" in fields and "output" in fields:
        used = ("instruction", "input", "output", "history")
        return "alpaca", [_conversation(fields, alpaca_messages(fields), used, "output")]
    raise InputError("", "unknown_format", f"expected {_EXPECTED}; got {', '.join(map(repr, fields)) or 'no keys'}")


def _from_list(value: Any, key: str, ignored: Counter[str]) -> tuple[str, list[Message]]:
    """A list of messages by the keys of its first element."""
    if not isinstance(value, list):
        raise InputError(key, "bad_type", f"expected a list of messages; got {type_name(value)}")
    items = cast("list[Any]", value)
    first: Any = items[0] if items else None
    keys = cast("dict[str, Any]", first) if isinstance(first, dict) else {}
    if "from" in keys:
        return "sharegpt", normalise_turns(items, key, ignored)
    if "human" in keys or ("assistant" in keys and "role" not in keys):
        return "sharegpt_pairs", pair_messages(items, key)
    name, roles = ("openai", CHAT_ROLES) if key == "messages" else ("sharegpt_roles", SHAREGPT_ROLES)
    if is_plain(items):
        return name, cast("list[Message]", items)
    return name, normalise_messages(items, key, roles, ignored)


def _preference(row: dict[str, Any], place: str, ignored: Counter[str]) -> list[Conversation]:
    """Two conversations with metadata `pair` and `side`."""
    chosen = side_messages(row["chosen"], "chosen", "assistant", ignored)
    rejected = side_messages(row["rejected"], "rejected", "assistant", ignored)
    whole = [bool(side) and side[0]["role"] != "assistant" for side in (chosen, rejected)]
    if whole[0] != whole[1]:
        raise InputError(
            "rejected", "conflict", "expected both sides as answers or both as conversations; got one of each"
        )
    context, used = ([], ()) if whole[0] else _context(row, ignored)
    conversations: list[Conversation] = []
    for side, messages in (("chosen", chosen), ("rejected", rejected)):
        shared = cast("list[Message]", [dict(message) for message in context])
        conversation = _conversation(row, shared + messages, ("chosen", "rejected", *used), side)
        conversation.metadata |= {"pair": place, "side": side}
        conversations.append(conversation)
    return conversations


def _context(row: dict[str, Any], ignored: Counter[str]) -> tuple[list[Message], tuple[str, ...]]:
    """What both answers of a preference row answer."""
    if row.get("prompt") is not None:
        return side_messages(row["prompt"], "prompt", "user", ignored), ("prompt",)
    for key in _LISTS:
        if row.get(key) is not None:
            return _from_list(row[key], key, ignored)[1], (key,)
    if row.get("instruction") is not None:
        return alpaca_prompt(row), ("instruction", "input", "history")
    expected = "prompt, messages, conversations, conversation or instruction: what chosen and rejected answer"
    raise InputError("prompt", "no_prompt", f"expected {expected}; got {', '.join(map(repr, row))}")


def _conversation(row: dict[str, Any], messages: list[Message], used: Iterable[str], field: str) -> Conversation:
    """Add what stands beside the messages: system, tools, id; the rest is metadata."""
    if len(row) == 1:
        check_turns(messages, field)
        return Conversation(messages)
    rest = {key: value for key, value in row.items() if key not in used}
    system: Any = rest.pop("system", None)
    if system not in (None, ""):
        text = expect_text(system, "system", "bad_content")
        if messages and messages[0]["role"] == "system":
            raise InputError("system", "conflict", f"expected one system message; got another in {field}")
        messages = [{"role": "system", "content": text}, *messages]
    tools = _tools(rest)
    row_id: Any = rest.get("id")
    is_id = isinstance(row_id, (str, int)) and not isinstance(row_id, bool)
    if is_id:
        del rest["id"]
    check_turns(messages, field)
    return Conversation(messages, tools, str(row_id) if is_id else None, rest)


def _tools(rest: dict[str, Any]) -> list[ToolSpec] | None:
    """Takes `tools` or the older `functions` out of `rest`."""
    tools = parse_tools(rest.pop("tools", None), "tools")
    functions = parse_tools(rest.pop("functions", None), "functions")
    if tools is not None and functions is not None:
        raise InputError("functions", "conflict", "expected tools or functions; got both")
    return functions if tools is None else tools

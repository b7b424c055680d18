"""Messages to and from OpenAI's chat API form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, cast

from ..errors import InputError
from ..messages import Message

__all__ = ["from_openai_message", "to_openai_message"]


def to_openai_message(message: Message | Mapping[str, Any]) -> dict[str, Any]:
    """The message as OpenAI's chat API writes it.

    Arguments become JSON text; a call without an id gets `call_0`, `call_1`, …; thinking parts become
    `reasoning_content`; an empty content beside calls becomes None. Calls that could not be parsed are put back into
    the content as they were sampled, since the API has no place for them.

    >>> to_openai_message({"role": "assistant", "content": "Hi"})
    {'role': 'assistant', 'content': 'Hi'}
    """
    source: dict[str, Any] = dict(cast("Mapping[str, Any]", message))
    out: dict[str, Any] = {"role": source["role"]}
    content, thoughts = _content(source.get("content"))
    reasoning = source.get("reasoning_content") or thoughts
    unparsed = "\n".join(call["raw"] for call in source.get("unparsed_tool_calls") or ())
    if unparsed:
        content = f"{content}\n{unparsed}" if content else unparsed
    calls = [_call_out(call, i) for i, call in enumerate(source.get("tool_calls") or ())]
    out["content"] = None if calls and not content else content
    if reasoning:
        out["reasoning_content"] = reasoning
    if calls:
        out["tool_calls"] = calls
    out.update({key: source[key] for key in ("tool_call_id", "name") if source.get(key) is not None})
    return out


def from_openai_message(message: Mapping[str, Any]) -> Message:
    """A message of OpenAI's chat API as renderers take it: arguments as objects, no null fields.

    Raises:
        InputError: `role` is missing, or arguments are not a JSON object; the place is named.
    """
    if not isinstance(message.get("role"), str):
        raise InputError("role", "unknown_role", f"expected text; got {message.get('role')!r}")
    out = {key: value for key, value in message.items() if value is not None}
    content = out.get("content", "")
    if isinstance(content, list):
        content = [_part_in(part) for part in content]
    out["content"] = content
    calls = out.pop("tool_calls", None)
    if calls:
        out["tool_calls"] = [_call_in(call, i) for i, call in enumerate(calls)]
    return cast("Message", out)


def _content(content: Any) -> tuple[Any, str]:
    """OpenAI's content, and the thinking that was among the parts."""
    if content is None:
        return "", ""
    if isinstance(content, str):
        return content, ""
    thoughts = "".join(part["thinking"] for part in content if part.get("type") == "thinking")
    parts = [part for part in content if part.get("type") != "thinking"]
    if all(part.get("type") == "text" for part in parts):
        return "".join(part["text"] for part in parts), thoughts
    return [_part_out(part) for part in parts], thoughts


def _part_out(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "image":
        return {"type": "image_url", "image_url": {"url": part["image"]}}
    return dict(part)


def _part_in(part: Mapping[str, Any]) -> dict[str, Any]:
    if part.get("type") == "image_url":
        url = part["image_url"]
        return {"type": "image", "image": url["url"] if isinstance(url, Mapping) else url}
    return dict(part)


def _call_out(call: Mapping[str, Any], index: int) -> dict[str, Any]:
    function = call["function"]
    arguments = function["arguments"]
    text = arguments if isinstance(arguments, str) else json.dumps(arguments, ensure_ascii=False)
    return {
        "id": call.get("id") or f"call_{index}",
        "type": "function",
        "function": {"name": function["name"], "arguments": text},
    }


def _call_in(call: Mapping[str, Any], index: int) -> dict[str, Any]:
    function = call.get("function")
    if not isinstance(function, Mapping) or not isinstance(function.get("name"), str):
        raise InputError(
            f"tool_calls[{index}].function", "bad_call", f"expected a name and arguments; got {function!r}"
        )
    arguments: Any = function.get("arguments", "{}")
    place = f"tool_calls[{index}].function.arguments"
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments or "{}")
        except ValueError:
            raise InputError(place, "bad_arguments", f"expected JSON; got {arguments[:60]!r}") from None
    if not isinstance(arguments, dict):
        raise InputError(place, "bad_arguments", f"expected a JSON object; got {type(arguments).__name__}")
    return {**call, "type": "function", "function": {"name": function["name"], "arguments": arguments}}

"""Message content: a string, or typed parts as several dialects write them."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, cast

from renderers import ContentPart, InputError, TextPart, ThinkingPart, ToolCall

from .tool_fields import parse_call_text
from .validate import at, expect_text, show, type_name

__all__ = ["Content", "parse_content"]

_TEXT_TYPES = frozenset({"text", "input_text", "output_text"})
_THINKING_TYPES = frozenset({"thinking", "reasoning"})
_IMAGE_TYPES = frozenset({"image", "image_url", "input_image"})
_PART_TYPES = (
    "text",
    "input_text",
    "output_text",
    "thinking",
    "reasoning",
    "image",
    "image_url",
    "input_image",
    "tool_call",
)
# Keys that carry no meaning for a template; dropped and counted.
_IGNORED_KEYS = frozenset({"annotations", "cache_control", "detail", "id", "logprobs", "signature"})


@dataclass(slots=True)
class Content:
    """What a message's content says.

    Attributes:
        value: a string; a list of parts where images or thinking between texts need one; None when there is none.
        thinking: the thinking that comes before everything else, or None.
        calls: tool calls written as parts.
    """

    value: str | list[ContentPart] | None = None
    thinking: str | None = None
    calls: list[ToolCall] = field(default_factory=list[ToolCall])


def parse_content(value: Any, ignored: Counter[str]) -> Content:
    """Content of one message; fields in faults are relative to it (`[1].type`).

    Args:
        ignored: counts dropped keys.

    Raises:
        InputError: `bad_content`, `unknown_part`, `unknown_field`, `part_order`, `missing_content`, or a call's.
    """
    if value is None or isinstance(value, str):
        return Content(value)
    if not isinstance(value, list):
        raise InputError("", "bad_content", f"expected a string or a list of parts; got {type_name(value)}")
    parts: list[ContentPart] = []
    content = Content()
    for i, item in enumerate(cast("list[Any]", value)):
        try:
            part = _part(item, content, ignored)
            if part is not None:
                _check_order(item, content)
                parts.append(part)
        except InputError as fault:
            raise at(f"[{i}]", fault) from None
    _split(parts, content)
    return content


def _check_order(item: Any, content: Content) -> None:
    """OpenAI's form has the text before the calls; text after one would move."""
    if content.calls:
        raise InputError("type", "part_order", f"expected tool_call parts last; got {show(item)} after one")


def _split(parts: list[ContentPart], content: Content) -> None:
    """Leading thinking apart; texts alone joined to a string, because that is what templates print."""
    num_leading = 0
    while num_leading < len(parts) and parts[num_leading]["type"] == "thinking":
        num_leading += 1
    if num_leading:
        content.thinking = "".join(cast("ThinkingPart", part)["thinking"] for part in parts[:num_leading])
    rest = parts[num_leading:]
    if any(part["type"] != "text" for part in rest):
        content.value = rest
    elif rest:
        content.value = "".join(cast("TextPart", part)["text"] for part in rest)


def _part(value: Any, content: Content, ignored: Counter[str]) -> ContentPart | None:
    """One part; None for a tool call, which goes to `content.calls`."""
    if not isinstance(value, dict):
        raise InputError("", "bad_content", f"expected an object with a type; got {type_name(value)}")
    part = cast("dict[str, Any]", value)
    kind: Any = part.get("type")
    if kind in _TEXT_TYPES:
        return {"type": "text", "text": _text(part, ("text", "value"), ignored)}
    if kind in _THINKING_TYPES:
        return {"type": "thinking", "thinking": _text(part, ("thinking", "reasoning", "text", "value"), ignored)}
    if kind in _IMAGE_TYPES:
        return {"type": "image", "image": _image(part, ignored)}
    if kind == "tool_call":
        key = next((name for name in ("tool_call", "value") if part.get(name) is not None), "value")
        _refuse_unknown(part, (key,), ignored)
        try:
            content.calls.extend(parse_call_text(part.get(key)))
        except InputError as fault:
            raise at(key, fault) from None
        return None
    raise InputError("type", "unknown_part", f"expected one of {', '.join(_PART_TYPES)}; got {show(kind)}")


def _text(part: dict[str, Any], keys: tuple[str, ...], ignored: Counter[str]) -> str:
    key = next((name for name in keys if part.get(name) is not None), keys[0])
    _refuse_unknown(part, (key,), ignored)
    return expect_text(part.get(key), key, "bad_content")


def _image(part: dict[str, Any], ignored: Counter[str]) -> str:
    keys = ("image", "image_url", "url", "path", "value")
    key = next((name for name in keys if part.get(name) is not None), "image")
    _refuse_unknown(part, (key,), ignored)
    image: Any = part.get(key)
    if isinstance(image, dict):
        inner = cast("dict[str, Any]", image)
        try:
            _refuse_unknown(inner, ("url",), ignored)
        except InputError as fault:
            raise at(key, fault) from None
        image, key = inner.get("url"), f"{key}.url"
    if not isinstance(image, str) or not image:
        raise InputError(key, "bad_content", f"expected an image's path, URL or data URI; got {show(image)}")
    return image


def _refuse_unknown(part: dict[str, Any], known: tuple[str, ...], ignored: Counter[str]) -> None:
    for key, item in part.items():
        if key == "type" or key in known or item is None:
            continue
        if key not in _IGNORED_KEYS:
            raise InputError(key, "unknown_field", f"expected type and {known[0]}; got {key!r}")
        ignored[key] += 1

"""Messages as they travel: plain dicts in OpenAI's form, so that a template sees them as they are.

A `Message` is a dict and stays one from the reader to the template. `Conversation` is the unit of rendering.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NotRequired, TypedDict

from .errors import InputError

__all__ = [
    "ROLES",
    "ContentPart",
    "Conversation",
    "FunctionCall",
    "ImagePart",
    "Message",
    "TextPart",
    "ThinkingPart",
    "ToolCall",
    "ToolSpec",
    "check_messages",
    "text_of",
]

ROLES = ("system", "developer", "user", "assistant", "tool")
"""Roles a `Message` may have after normalisation."""


class TextPart(TypedDict):
    type: Literal["text"]
    text: str


class ThinkingPart(TypedDict):
    type: Literal["thinking"]
    thinking: str


class ImagePart(TypedDict):
    """An image by reference: a path, a data URI or a content hash; never fetched from a network."""

    type: Literal["image"]
    image: str


ContentPart = TextPart | ThinkingPart | ImagePart


class FunctionCall(TypedDict):
    name: str
    arguments: dict[str, Any] | str


class ToolCall(TypedDict):
    type: NotRequired[Literal["function"]]
    id: NotRequired[str]
    function: FunctionCall


class Message(TypedDict):
    """One message. `weight` scales the loss of its trained tokens (None or absent: by `TrainOnWhat`)."""

    role: str
    content: NotRequired[str | list[ContentPart] | None]
    reasoning_content: NotRequired[str]
    tool_calls: NotRequired[list[ToolCall]]
    tool_call_id: NotRequired[str]
    name: NotRequired[str]
    weight: NotRequired[float]
    trainable: NotRequired[bool]


ToolSpec = dict[str, Any]
"""An OpenAI tool: `{"type": "function", "function": {"name", "description", "parameters"}}`."""


@dataclass(slots=True)
class Conversation:
    """One conversation, ready to render.

    Attributes:
        messages: normalised messages, in order.
        tools: tool declarations, or None.
        id: the row's own id, or None.
        metadata: what else the row carried (`pair` / `side` link the two halves of a preference row).
    """

    messages: list[Message]
    tools: list[ToolSpec] | None = None
    id: str | None = None
    metadata: dict[str, Any] = field(default_factory=dict[str, Any])


def text_of(message: Mapping[str, Any]) -> str:
    """Visible text of a message: its string content, or its text parts joined; thinking is left out."""
    content = message.get("content")
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    return "".join(part.get("text", "") for part in content if part.get("type", "text") == "text")


def check_messages(messages: Sequence[Mapping[str, Any]]) -> None:
    """Refuse what no renderer could mean: not a list of dicts, a role outside `ROLES`, content of another type.

    Raises:
        InputError: naming the message and field.
    """
    if not isinstance(messages, Sequence) or isinstance(messages, (str, bytes)):
        raise InputError("messages", "bad_type", f"expected a list of messages; got {type(messages).__name__}")
    if not messages:
        raise InputError("messages", "no_messages", "expected at least one message; got an empty list")
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping):
            raise InputError(f"messages[{i}]", "bad_type", f"expected an object; got {type(message).__name__}")
        role = message.get("role")
        if role not in ROLES:
            raise InputError(f"messages[{i}].role", "unknown_role", f"expected one of {', '.join(ROLES)}; got {role!r}")
        content = message.get("content")
        if content is not None and not isinstance(content, (str, list)):
            raise InputError(
                f"messages[{i}].content",
                "bad_content",
                f"expected a string or a list of parts; got {type(content).__name__}",
            )

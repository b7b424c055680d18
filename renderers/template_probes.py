"""Whether a chat template keeps its history as it was shown, found out by rendering conversations that grow."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["keeps_history"]

Probe = Callable[..., str | None]
"""`probe(messages, tools, generation=bool)`: the text, None where the template refuses."""

_TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
        },
    }
]
_SYSTEM: dict[str, Any] = {"role": "system", "content": "Be brief."}
_USER: dict[str, Any] = {"role": "user", "content": "Hello"}
_OTHER: dict[str, Any] = {"role": "user", "content": "And then?"}
_ANSWER: dict[str, Any] = {"role": "assistant", "content": "Yes."}
_CALL: dict[str, Any] = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {"at": "it"}}}
_RESULT: dict[str, Any] = {"role": "tool", "content": "42", "tool_call_id": "call00001", "name": "look"}
_THOUGHT: dict[str, Any] = {"reasoning_content": "Hm."}


def _conversations() -> list[list[dict[str, Any]]]:
    plain = [_USER, _ANSWER, _OTHER, {**_ANSWER, **_THOUGHT}, _OTHER, _ANSWER, _USER]
    found = [plain, [_SYSTEM, *plain]]
    for content in ({"content": ""}, {}):
        asks: dict[str, Any] = {"role": "assistant", "tool_calls": [_CALL], **content}
        for first in (asks, {**asks, **_THOUGHT}):
            called = [_USER, first, _RESULT, _ANSWER, _OTHER, asks, _RESULT, _ANSWER, _USER]
            found += [called, [_SYSTEM, *called]]
    return found


def keeps_history(probe: Probe, rest: str) -> bool:
    """Whether every prompt of every probe conversation starts with the prompt and turn before it.

    A conversation that the template refuses says nothing, nor does a turn that it writes unlike its own prompt.

    Args:
        probe: renders.
        rest: what the template writes after a turn's stop token.
    """
    return all(_grows(probe, rest, messages, tools) for messages in _conversations() for tools in (None, _TOOLS))


def _grows(probe: Probe, rest: str, messages: Sequence[dict[str, Any]], tools: Any) -> bool:
    said = ""
    for i in range(1, len(messages) + 1):
        if i < len(messages) and messages[i]["role"] != "assistant":
            continue
        prompt = probe(messages[:i], tools, generation=True)
        if prompt is None:
            return True
        if not prompt.startswith(said):
            return False
        turn = probe(messages[: i + 1], tools)
        said = turn.removesuffix(rest) if turn is not None and turn.startswith(prompt) else ""
    return True

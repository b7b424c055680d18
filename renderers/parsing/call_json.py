"""Tool calls written as one JSON object `{"name": …, "arguments": {…}}`, alone or in a list."""

from __future__ import annotations

import json
import re
from typing import Any

from .draft import Draft
from .values import CallError, JsonEnd, ParameterTypes, read_object

__all__ = ["JsonCall", "JsonCallList", "read_call"]

_HEAD = re.compile(r'\s*\{\s*"name"\s*:\s*("(?:[^"\\]|\\.)*")\s*,\s*"(?:arguments|parameters)"\s*:\s*(?=\{)')
_MAX_HEAD = 1024  # a longer beginning is read when it is whole
_ARGUMENT_KEYS = ("arguments", "parameters")


def read_call(text: str) -> tuple[str, dict[str, Any], str | None]:
    """Name, arguments and id of one call.

    Raises:
        CallError: it is none.
    """
    call = read_object(text, "tool call")
    name = call.get("name")
    if not isinstance(name, str) or not name:
        raise CallError(f"name: expected text; got {name!r}")
    keys = [key for key in _ARGUMENT_KEYS if key in call]
    if len(keys) != 1:
        raise CallError(f"expected arguments; got the keys {', '.join(call)}")
    arguments = call[keys[0]]
    if isinstance(arguments, str):
        arguments = read_object(arguments, keys[0])  # an object written as text, as some templates quote it
    if not isinstance(arguments, dict):
        raise CallError(f"{keys[0]}: expected a JSON object; got {json.dumps(arguments)[:40]}")
    call_id = call.get("id")
    return name, arguments, call_id if isinstance(call_id, str) else None


class JsonCall:
    """One call; its arguments are shown as they come when the name stands in front of them."""

    def __init__(self, draft: Draft, types: dict[str, ParameterTypes], opening: str = "", closing: str = "") -> None:  # noqa: ARG002
        self._draft = draft
        self._opening, self._closing = opening, closing
        self._raw: list[str] = []
        self._head = ""
        self._looking = True
        self._index: int | None = None
        self._end: JsonEnd | None = None

    def text(self, text: str) -> None:
        self._raw.append(text)
        if self._looking:
            self._head += text
            match = _HEAD.match(self._head)
            if match:
                self._looking = False
                try:
                    name = json.loads(match.group(1))
                except ValueError:
                    return
                self._index = self._draft.start_call(name)
                self._end = JsonEnd()
                self._arguments(self._head[match.end() :])
            elif len(self._head) > _MAX_HEAD:
                self._looking = False
        elif self._end is not None:
            self._arguments(text)

    def mark(self, mark: str) -> None:
        self.text(mark)

    def close(self, *, complete: bool, closed: bool = True) -> None:
        raw = "".join(self._raw)
        whole = self._opening + raw + (self._closing if closed else "")
        if not complete:
            self._draft.fail_call(self._index, whole, "expected the end of the tool call; got the end of the turn")
            return
        try:
            name, arguments, call_id = read_call(raw)
        except CallError as error:
            self._draft.fail_call(self._index, whole, str(error))
        else:
            self._draft.end_call(self._index, name, arguments, call_id)

    def _arguments(self, text: str) -> None:
        assert self._end is not None
        assert self._index is not None
        end = self._end.feed(text)
        self._draft.arguments(self._index, text if end is None else text[:end])
        if end is not None:
            self._end = None


class JsonCallList:
    """`[{…}, {…}]` up to the end of the turn; each element is a call of its own, good or bad."""

    def __init__(self, draft: Draft, types: dict[str, ParameterTypes], opening: str = "", closing: str = "") -> None:  # noqa: ARG002
        self._draft = draft
        self._types = types
        self._opening = opening
        self._call: JsonCall | None = None
        self._end = JsonEnd()
        self._between: list[str] = []
        self._num_calls = 0

    def text(self, text: str) -> None:
        while text:
            if self._call is None:
                start = text.find("{")
                self._between.append(text if start < 0 else text[:start])
                if start < 0:
                    return
                self._call, self._end, text = JsonCall(self._draft, self._types), JsonEnd(), text[start:]
                self._num_calls += 1
            end = self._end.feed(text)
            self._call.text(text if end is None else text[:end])
            if end is None:
                return
            self._call.close(complete=True)
            self._call, text = None, text[end:]

    def mark(self, mark: str) -> None:
        self.text(mark)

    def close(self, *, complete: bool, closed: bool = True) -> None:  # noqa: ARG002
        if self._call is not None:
            self._call.close(complete=False)
        around = "".join("".join(self._between).split())
        if not self._num_calls:
            raw = self._opening + "".join(self._between)
            self._draft.fail_call(None, raw, f"expected a JSON list of calls; got {around[:40]!r}")
        elif complete and self._call is None and around != f"[{',' * (self._num_calls - 1)}]":
            self._draft.broken(f"expected tool calls between [ and ]; got {around[:40]!r} around them")

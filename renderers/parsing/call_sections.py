"""Tool calls in a section of their own control tokens: Kimi K2 and DeepSeek V3."""

from __future__ import annotations

import json
import re

from .draft import Draft
from .values import CallError, JsonEnd, ParameterTypes, read_object

__all__ = ["DeepSeekCalls", "KimiCalls"]

_DEEPSEEK = re.compile(r"\s*([^\n]+)\n\s*(?:```(?:json)?\s*)?(?=\{)")


class _Section:
    """Calls between two marks each; marks divide a call into a head and its arguments.

    Class attributes: the marks `begin` and `end` around a call, `divide` between its head and its arguments.
    """

    begin: str
    divide: str
    end: str

    def __init__(self, draft: Draft, types: dict[str, ParameterTypes], opening: str = "", closing: str = "") -> None:  # noqa: ARG002
        self._draft = draft
        self._reset()
        self._open = False
        self._num_calls = 0

    def _reset(self) -> None:
        self._raw: list[str] = []
        self._head: list[str] = []
        self._body: list[str] = []
        self._in_body = False
        self._index: int | None = None
        self._ending: JsonEnd | None = None
        self._shown = False

    def mark(self, mark: str) -> None:
        if mark == self.begin:
            if self._open:
                self._finish(f"expected {self.end}; got {mark}")
            self._open = True
            self._raw.append(mark)
        elif not self._open:
            self._draft.broken(f"expected {self.begin}; got {mark}")
        elif mark == self.divide and not self._in_body:
            self._raw.append(mark)
            self._in_body = True
            self.divided()
        elif mark == self.end:
            self._raw.append(mark)
            self._finish("")
        else:
            self.text(mark)

    def text(self, text: str) -> None:
        if not self._open:
            if text.strip():
                self._draft.broken(f"expected {self.begin}; got {text.strip()[:40]!r}")
            return
        self._raw.append(text)
        if self._in_body:
            self._body.append(text)
            self.body(text)
        else:
            self._head.append(text)

    def close(self, *, complete: bool, closed: bool = True) -> None:  # noqa: ARG002
        if self._open:
            self._finish(f"expected {self.end}; got the end of the calls")
        elif complete and not self._num_calls:
            self._draft.fail_call(None, "", "expected a tool call in the section; got none")

    def divided(self) -> None:
        """The head is complete."""

    def body(self, text: str) -> None:
        """More text after the head."""

    def read(self) -> tuple[str, str, str | None]:
        """Name, arguments as text, id."""
        raise NotImplementedError

    def show(self, text: str) -> None:
        """Show text of the arguments up to where the object ends."""
        if self._ending is not None and self._index is not None:
            self._shown = True
            end = self._ending.feed(text)
            self._draft.arguments(self._index, text if end is None else text[:end])
            if end is not None:
                self._ending = None

    def _finish(self, reason: str) -> None:
        if not reason and not self._in_body:
            reason = f"expected {self.divide}; got none"
        name, arguments, call_id = "", None, None
        try:
            if not reason:
                name, text, call_id = self.read()
                arguments = read_object(text, "arguments")
        except CallError as error:
            reason = str(error)
        if arguments is None:
            self._draft.fail_call(self._index, "".join(self._raw), reason)
        else:
            if self._index is not None and not self._shown:
                self._draft.arguments(self._index, json.dumps(arguments, ensure_ascii=False))
            self._draft.end_call(self._index, name, arguments, call_id)
        self._open = False
        self._num_calls += 1
        self._reset()


class KimiCalls(_Section):
    """`functions.name:0` is both the id and the name; arguments are JSON."""

    begin, divide, end = "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>"

    def divided(self) -> None:
        _, name = self._id()
        if name:
            self._index = self._draft.start_call(name)

    def body(self, text: str) -> None:
        if self._ending is None and len(self._body) == 1 and text.startswith("{"):
            self._ending = JsonEnd()
        self.show(text)

    def read(self) -> tuple[str, str, str | None]:
        call_id, name = self._id()
        if not name:
            raise CallError(f"expected functions.NAME:INDEX; got {call_id!r}")
        return name, "".join(self._body), call_id

    def _id(self) -> tuple[str, str]:
        """The call's id, and the name in it."""
        call_id = "".join(self._head).strip()
        name, colon, index = call_id.rpartition(":")
        name = name if colon and index.isdecimal() else call_id
        return call_id, name.removeprefix("functions.")


class DeepSeekCalls(_Section):
    """`function`, a separator, then the name on a line and the arguments as a fenced block."""

    begin, divide, end = "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"
    _seen: str

    def divided(self) -> None:
        self._seen = ""

    def body(self, text: str) -> None:
        if self._index is not None or len(self._seen) > 1024:
            self.show(text)
            return
        self._seen += text
        match = _DEEPSEEK.match(self._seen)
        if match:
            self._index = self._draft.start_call(match.group(1).strip())
            self._ending = JsonEnd()
            self.show(self._seen[match.end() :])

    def read(self) -> tuple[str, str, str | None]:
        text = "".join(self._body)
        name, newline, block = text.partition("\n")
        if not name.strip() or not newline:
            raise CallError(f"expected a name on its own line; got {text[:40]!r}")
        block = block.strip()
        if block.startswith("```"):
            if not block.endswith("```") or len(block) < 6:
                raise CallError("expected a closing ```; got none")
            block = block[3:-3].removeprefix("json")
        return name.strip(), block, None

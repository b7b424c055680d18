"""Tool calls written as tags: `<function=…><parameter=…>` text, and GLM's argument keys and values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

from .draft import Draft
from .values import CallError, ParameterTypes, typed_value

__all__ = ["GlmCall", "XmlCall"]

_FUNCTION = re.compile(r"\s*<function=([^>\n]+)>")
_END = "</function>"
_PARAMETER = re.compile(r"<parameter=([^>\n]+)>\n?(.*?)\n?</parameter>\s*(?=<parameter=|\Z)", re.DOTALL)
_MAX_HEAD = 1024


class _TextCall:
    """A call whose text is kept until it is whole; the name is told as soon as it is known."""

    python_values = False
    head: re.Pattern[str]

    def __init__(self, draft: Draft, types: dict[str, ParameterTypes], opening: str = "", closing: str = "") -> None:
        self._draft = draft
        self._types = types
        self._opening, self._closing = opening, closing
        self._raw: list[str] = []
        self._head: str | None = ""
        self._index: int | None = None

    def text(self, text: str) -> None:
        self._raw.append(text)
        if self._head is not None:
            self._head += text
            match = self.head.match(self._head)
            if match:
                self._index = self._draft.start_call(match.group(1).strip())
            if match or len(self._head) > _MAX_HEAD:
                self._head = None

    def mark(self, mark: str) -> None:
        self.text(mark)

    def close(self, *, complete: bool, closed: bool = True) -> None:
        whole = self._opening + "".join(self._raw) + (self._closing if closed else "")
        if not complete:
            self._draft.fail_call(self._index, whole, "expected the end of the tool call; got the end of the turn")
            return
        try:
            name, values = self.read()
            arguments = self._typed(name, values)
        except CallError as error:
            self._draft.fail_call(self._index, whole, str(error))
            return
        if self._index is not None:
            self._draft.arguments(self._index, json.dumps(arguments, ensure_ascii=False))
        self._draft.end_call(self._index, name, arguments)

    def read(self) -> tuple[str, list[tuple[str, str]]]:
        raise NotImplementedError

    def _typed(self, name: str, values: list[tuple[str, str]]) -> dict[str, Any]:
        schemas = self._types.get(name, {})
        arguments: dict[str, Any] = {}
        for key, text in values:
            if key in arguments:
                raise CallError(f"expected each parameter once; got {key!r} twice")
            arguments[key] = typed_value(text, schemas.get(key), python=self.python_values)
        return arguments


class XmlCall(_TextCall):
    """`<function=name>\\n<parameter=key>\\nvalue\\n</parameter>\\n</function>` (Qwen3.5, Nemotron 3)."""

    python_values = True
    head = _FUNCTION

    def read(self) -> tuple[str, list[tuple[str, str]]]:
        raw = "".join(self._raw).strip()
        match = _FUNCTION.match(raw)
        if match is None or not raw.endswith(_END):
            raise CallError(f"expected <function=NAME> … {_END}; got {raw[:40]!r}")
        return match.group(1), list(_parameters(raw[match.end() : -len(_END)].strip()))


def _parameters(body: str) -> Iterator[tuple[str, str]]:
    position = 0
    while position < len(body):
        match = _PARAMETER.match(body, position)
        if match is None:
            raise CallError(f"expected <parameter=NAME> … </parameter>; got {body[position : position + 40]!r}")
        yield match.group(1), match.group(2)
        position = match.end()


class GlmCall(_TextCall):
    """`name\\n<arg_key>key</arg_key>\\n<arg_value>value</arg_value>\\n…` with the tags as control tokens (GLM 4.5)."""

    head = re.compile(r"\s*([^\n]+)\n")

    def __init__(self, draft: Draft, types: dict[str, ParameterTypes], opening: str = "", closing: str = "") -> None:
        super().__init__(draft, types, opening, closing)
        self._marks: list[tuple[str, int]] = []  # a mark, and where in `_raw` it stands

    def mark(self, mark: str) -> None:
        self._marks.append((mark, len(self._raw)))
        super().text(mark)

    def read(self) -> tuple[str, list[tuple[str, str]]]:
        bounds = [place for _, place in self._marks]
        parts = ["".join(self._raw[i + 1 : j]) for i, j in zip([-1, *bounds], [*bounds, len(self._raw)], strict=True)]
        name = parts[0].strip()
        names = [mark for mark, _ in self._marks]
        if not name:
            raise CallError("expected a function name; got none")
        expected = ["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"] * (len(names) // 4)
        if names != expected:
            raise CallError(f"expected pairs of <arg_key> and <arg_value>; got {' '.join(names)[:60]}")
        between = [parts[i] for i in range(2, len(parts), 2)]
        if any(text.strip() for text in between):
            raise CallError("expected nothing between <arg_key> and <arg_value>; got text")
        return name, [(parts[i], parts[i + 2]) for i in range(1, len(parts) - 1, 4)]

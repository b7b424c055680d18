"""Strings that remember which message each character came from.

A chat template mixes its own text with the messages'. Where a message contains the text of a control token, only
provenance tells the two apart. `Traced` carries an origin per character through everything templates do to strings;
an operation that it cannot follow character by character makes the whole result message text, which is the safe side.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any, SupportsIndex

__all__ = ["TEMPLATE", "Traced", "concat", "origin_of", "trace", "traced_json"]

TEMPLATE = "\0"
"""Origin of a character that the template wrote; a message's characters have `chr(index + 1)`."""


class Traced(str):
    """A string with `origin`: a second string of the same length, one origin per character."""

    __slots__ = ("_origin",)
    _origin: str

    def __new__(cls, text: str, origin: str) -> Traced:
        self = super().__new__(cls, text)
        self._origin = origin if len(origin) == len(text) else _blur(origin, len(text))
        return self

    @property
    def origin(self) -> str:
        return self._origin

    def __str__(self) -> str:
        return self

    def __add__(self, other: str) -> Traced:
        return Traced(str.__add__(self, other), self._origin + origin_of(other))

    def __radd__(self, other: str) -> Traced:
        return Traced(str.__add__(other, self), origin_of(other) + self._origin)

    def __getitem__(self, key: SupportsIndex | slice) -> Traced:
        return Traced(str.__getitem__(self, key), self._origin[key])

    def __iter__(self) -> Any:
        return (self[i] for i in range(len(self)))

    def __mul__(self, times: SupportsIndex) -> Traced:
        return Traced(str.__mul__(self, times), self._origin * times)

    def __rmul__(self, times: SupportsIndex) -> Traced:
        return self * times

    def __mod__(self, value: Any) -> Traced:
        return Traced(str.__mod__(self, value), self._origin)

    def __format__(self, spec: str) -> str:
        return Traced(str.__format__(self, spec), self._origin)

    def _slice(self, start: int, stop: int) -> Traced:
        return Traced(str.__getitem__(self, slice(start, stop)), self._origin[start:stop])

    def lstrip(self, chars: str | None = None, /) -> Traced:
        return self._slice(len(self) - len(str.lstrip(self, chars)), len(self))

    def rstrip(self, chars: str | None = None, /) -> Traced:
        return self._slice(0, len(str.rstrip(self, chars)))

    def strip(self, chars: str | None = None, /) -> Traced:
        return self.lstrip(chars).rstrip(chars)

    def removeprefix(self, prefix: str, /) -> Traced:
        return self._slice(len(prefix) if self.startswith(prefix) else 0, len(self))

    def removesuffix(self, suffix: str, /) -> Traced:
        return self._slice(0, len(self) - len(suffix) if suffix and self.endswith(suffix) else len(self))

    def _cut(self, parts: list[str]) -> list[str]:
        # The parts come from this string in order: find each one again from where the last ended.
        found: list[str] = []
        position = 0
        for part in parts:
            position = self.index(part, position)
            found.append(self._slice(position, position + len(part)))
            position += len(part)
        return found

    def split(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if sep is None:
            return self._cut(str.split(self, None, maxsplit))
        return self._at_separators(str.split(self, sep, maxsplit), len(sep))

    def rsplit(self, sep: str | None = None, maxsplit: SupportsIndex = -1) -> list[str]:
        if sep is None:
            return self._cut(str.rsplit(self, None, maxsplit))
        return self._at_separators(str.rsplit(self, sep, maxsplit), len(sep))

    def _at_separators(self, parts: list[str], width: int) -> list[str]:
        found: list[str] = []
        position = 0
        for part in parts:
            found.append(self._slice(position, position + len(part)))
            position += len(part) + width
        return found

    def splitlines(self, keepends: bool = False) -> list[str]:
        whole = self._at_separators(str.splitlines(self, keepends=True), 0)
        if keepends:
            return whole
        return [line[: len(bare)] for line, bare in zip(whole, str.splitlines(self), strict=True)]

    def partition(self, sep: str, /) -> tuple[str, str, str]:
        head, middle, tail = self._at_separators(list(str.partition(self, sep)), 0)
        return head, middle, tail

    def rpartition(self, sep: str, /) -> tuple[str, str, str]:
        head, middle, tail = self._at_separators(list(str.rpartition(self, sep)), 0)
        return head, middle, tail

    def replace(self, old: str, new: str, count: SupportsIndex = -1, /) -> Traced:
        if not old:
            return Traced(str.replace(self, old, new, count), self._origin)
        return concat_with(new, self._at_separators(str.split(self, old, count), len(old)))

    def join(self, iterable: Iterable[str], /) -> Traced:
        return concat_with(self, list(iterable))

    # Case, padding and formatting: same length keeps the origins, any other makes it all message text.

    def lower(self) -> Traced:
        return Traced(str.lower(self), self._origin)

    def upper(self) -> Traced:
        return Traced(str.upper(self), self._origin)

    def title(self) -> Traced:
        return Traced(str.title(self), self._origin)

    def capitalize(self) -> Traced:
        return Traced(str.capitalize(self), self._origin)

    def swapcase(self) -> Traced:
        return Traced(str.swapcase(self), self._origin)

    def casefold(self) -> Traced:
        return Traced(str.casefold(self), self._origin)

    def expandtabs(self, tabsize: SupportsIndex = 8) -> Traced:
        return Traced(str.expandtabs(self, tabsize), self._origin)

    def zfill(self, width: SupportsIndex, /) -> Traced:
        return Traced(str.zfill(self, width), self._origin)

    def ljust(self, width: SupportsIndex, fillchar: str = " ", /) -> Traced:
        return Traced(str.ljust(self, width, fillchar), self._origin)

    def rjust(self, width: SupportsIndex, fillchar: str = " ", /) -> Traced:
        return Traced(str.rjust(self, width, fillchar), self._origin)

    def center(self, width: SupportsIndex, fillchar: str = " ", /) -> Traced:
        return Traced(str.center(self, width, fillchar), self._origin)

    def translate(self, table: Any, /) -> Traced:
        return Traced(str.translate(self, table), self._origin)

    def format(self, *args: Any, **kwargs: Any) -> Traced:
        return Traced(str.format(self, *args, **kwargs), self._origin)


def _blur(origin: str, length: int) -> str:
    """Origin of a text whose characters cannot be followed: all from the first message named, never the template."""
    return next((o for o in origin if o != TEMPLATE), "\1") * length


def origin_of(text: str) -> str:
    """The origins of a string; an ordinary one is the template's."""
    return text.origin if isinstance(text, Traced) else TEMPLATE * len(text)


def concat(parts: Iterable[str]) -> str:
    """`"".join` that keeps origins."""
    return concat_with("", list(parts))


def concat_with(separator: str, parts: list[str]) -> Traced:
    return Traced(str.join(separator, parts), origin_of(separator).join(map(origin_of, parts)))


def trace(value: Any, origin: str) -> Any:
    """A copy of JSON-like data in which every string, keys included, comes from `origin`."""
    if isinstance(value, str):
        return Traced(value, origin * len(value))
    if isinstance(value, Mapping):
        return {trace(key, origin): trace(item, origin) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [trace(item, origin) for item in value]
    return value


# Noncharacters: never part of valid text, so the marks cannot be forged by a message.
_OPEN, _CLOSE = "\ufdd0", "\ufdd1"
_MARK = re.compile(f'"{_OPEN}(\\d+){_CLOSE}"')


def traced_json(value: Any, **options: Any) -> str:
    """`json.dumps` that keeps the origins of the strings inside; `ensure_ascii` and the rest as in `json.dumps`."""
    strings: list[Traced] = []

    def mark(item: Any) -> Any:
        if isinstance(item, Traced):
            strings.append(item)
            return f"{_OPEN}{len(strings) - 1}{_CLOSE}"
        if isinstance(item, Mapping):
            return {mark(key): mark(inner) for key, inner in item.items()}
        if isinstance(item, (list, tuple)):
            return [mark(inner) for inner in item]
        return item

    ascii_only = options.pop("ensure_ascii", False)
    if options.get("sort_keys"):  # sort by the real keys, before they are replaced by marks
        value = _sorted(value)
        options = options | {"sort_keys": False}
    text = json.dumps(mark(value), ensure_ascii=False, **options)
    parts: list[str] = []
    position = 0
    for match in _MARK.finditer(text):
        parts.append(text[position : match.start()])
        string = strings[int(match.group(1))]
        dumped = json.dumps(str.__str__(string), ensure_ascii=ascii_only)
        parts.append(Traced(dumped, _blur(origin_of(string), len(dumped))))
        position = match.end()
    parts.append(text[position:])
    return concat(parts)


def _sorted(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {key: _sorted(value[key]) for key in sorted(value)}
    if isinstance(value, (list, tuple)):
        return [_sorted(item) for item in value]
    return value

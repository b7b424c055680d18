"""One top-level JSON array cut into its elements without parsing it or holding it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from .streams import ByteStream

__all__ = ["ArrayElement", "iter_elements"]

_WHITESPACE = b" \t\r\n"
_STRING_REST = rb'[^"\\]*+(?:\\.[^"\\]*+)*+'
# Everything up to the next byte that can change the state; a string that the buffer cuts stops at its quote.
# Possessive and without alternatives: nothing to go back to, so no memory per repetition.
_TO_BRACKET = re.compile(rb'[^"{}\[\]]*+(?:"' + _STRING_REST + rb'"[^"{}\[\]]*+)*+', re.DOTALL)
_TO_BRACKET_OR_COMMA = re.compile(rb'[^"{}\[\],]*+(?:"' + _STRING_REST + rb'"[^"{}\[\],]*+)*+', re.DOTALL)
_IN_STRING = re.compile(_STRING_REST, re.DOTALL)
_QUOTE, _COMMA, _OPEN, _CLOSE = ord('"'), ord(","), b"{[", b"}]"


@dataclass(slots=True)
class ArrayElement:
    """One element, or one fault of the array itself.

    Attributes:
        data: the element's bytes as they are in the file; of an element over the limit, its first bytes.
        line: 1-based line of the file where the element starts.
        offset: byte offset where it starts.
        size: the element's size in bytes.
        reason: empty, or `row_too_long`, `truncated`, `trailing_data`.
    """

    data: bytes
    line: int
    offset: int
    size: int
    reason: str = ""


class _Scanner:
    """State of the scan: `buffer[start:]` is the pending element, `buffer[:pos]` is scanned."""

    def __init__(self, stream: ByteStream, max_row_bytes: int, kept_bytes: int, chunk_bytes: int) -> None:
        self.stream = stream
        self.max_row_bytes = max_row_bytes
        self.kept_bytes = kept_bytes
        self.chunk_bytes = chunk_bytes
        self.buffer = b""
        self.base = stream.offset  # file offset of buffer[0]
        self.line = 1  # line of buffer[start]
        self.start = 0
        self.pos = 0
        self.depth = 0
        self.in_string = False
        self.too_long: ArrayElement | None = None

    def step(self) -> int:
        """Go to the next comma between elements or to the array's end; return that byte, or -1 to ask for more."""
        buffer = self.buffer
        while True:
            if self.in_string:
                match = _IN_STRING.match(buffer, self.pos)
            else:
                match = (_TO_BRACKET if self.depth else _TO_BRACKET_OR_COMMA).match(buffer, self.pos)
            assert match is not None
            self.pos = match.end()
            byte = buffer[self.pos] if self.pos < len(buffer) else -1
            if byte == _QUOTE:
                self.in_string = not self.in_string
            elif byte == -1 or self.in_string:  # in a string only a cut escape is left
                return -1
            elif byte in _OPEN:
                self.depth += 1
            elif byte in _CLOSE and self.depth:
                self.depth -= 1
            elif byte == _COMMA or byte == _CLOSE[1]:
                return byte
            self.pos += 1

    def more(self) -> bool:
        """Append the next chunk, forgetting what is done and all but the head of an element over the limit."""
        if self.too_long is None and self.pos - self.start > self.max_row_bytes:
            self.too_long = self._located(self.start, self.pos)
        if self.too_long is not None:
            self._drop(self.pos)
        else:
            self.buffer = self.buffer[self.start :]
            self.base += self.start
            self.pos -= self.start
            self.start = 0
        chunk = self.stream.read(self.chunk_bytes)
        self.buffer += chunk
        return bool(chunk)

    def take(self, end: int) -> ArrayElement:
        """The pending element, which ends before `buffer[end]`; the next one starts after that byte."""
        if self.too_long is not None:
            element, self.too_long = self.too_long, None
            element.size = self.base + end - element.offset
            element.reason = "row_too_long"
        else:
            element = self._located(self.start, end)
            element.data = self.buffer[self.start : end].strip(_WHITESPACE)
            element.size = len(element.data)
            if element.size > self.max_row_bytes:
                element.data = element.data[: self.kept_bytes]
                element.reason = "row_too_long"
        self.line += self.buffer.count(b"\n", self.start, end + 1)
        self.pos = self.start = min(end + 1, len(self.buffer))
        return element

    def _located(self, start: int, end: int) -> ArrayElement:
        piece = self.buffer[start:end]
        blank = len(piece) - len(piece.lstrip(_WHITESPACE))
        line = self.line + piece.count(b"\n", 0, blank)
        return ArrayElement(piece[blank : blank + self.kept_bytes], line, self.base + start + blank, 0)

    def _drop(self, end: int) -> None:
        self.line += self.buffer.count(b"\n", self.start, end)
        self.buffer = self.buffer[end:]
        self.base += end
        self.start = self.pos = 0


def iter_elements(
    stream: ByteStream, max_row_bytes: int, kept_bytes: int = 1024, chunk_bytes: int = 1 << 20
) -> Iterator[ArrayElement]:
    """Elements of the array that `stream` stands before, in order; memory is one element and one chunk.

    A stray comma is given as the element `,`, so that parsing it fails at its place. An array that is not
    closed, and text after it, are elements with a `reason`.
    """
    scanner = _Scanner(stream, max_row_bytes, kept_bytes, chunk_bytes)
    _enter(scanner)
    num_elements = 0
    comma: ArrayElement | None = None
    while True:
        byte = scanner.step()
        if byte == -1:
            if scanner.more():
                continue
            yield from _cut_short(scanner)
            return
        element = scanner.take(scanner.pos)
        num_elements += 1
        if byte == _COMMA:
            if not element.size:
                element.data, element.size = b",", 1
            comma = ArrayElement(b",", scanner.line, scanner.base + scanner.start - 1, 1)
            yield element
            continue
        if element.size:
            yield element
        elif comma is not None:
            yield comma
        yield from _after_array(scanner)
        return


def _enter(scanner: _Scanner) -> None:
    """Skip the whitespace and the opening bracket."""
    while not scanner.buffer.lstrip(_WHITESPACE):
        scanner.line += scanner.buffer.count(b"\n")
        scanner.base += len(scanner.buffer)
        scanner.buffer = scanner.stream.read(scanner.chunk_bytes)
    scanner.start = scanner.pos = scanner.buffer.index(b"[") + 1
    scanner.line += scanner.buffer.count(b"\n", 0, scanner.start)


def _cut_short(scanner: _Scanner) -> Iterator[ArrayElement]:
    element = scanner.take(len(scanner.buffer))
    if element.size:
        yield element
    yield ArrayElement(b"", scanner.line, scanner.base + len(scanner.buffer), 0, "truncated")


def _after_array(scanner: _Scanner) -> Iterator[ArrayElement]:
    rest = scanner.buffer[scanner.start :]
    offset, line = scanner.base + scanner.start, scanner.line
    while True:
        blank = len(rest) - len(rest.lstrip(_WHITESPACE))
        line += rest.count(b"\n", 0, blank)
        if blank < len(rest):
            head = rest[blank : blank + scanner.kept_bytes]
            yield ArrayElement(head, line, offset + blank, len(rest) - blank, "trailing_data")
            return
        offset += len(rest)
        rest = scanner.stream.read(scanner.chunk_bytes)
        if not rest:
            return

"""Inputs cut into blocks of whole rows: the unit of work, of retry and of resumption."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

from renderers import OptionError

from .json_array import ArrayElement, iter_elements
from .sources import Source
from .streams import ByteStream

__all__ = ["Block", "BlockFault", "iter_blocks"]

BlockKind = Literal["lines", "array", "table"]
DEFAULT_BLOCK_BYTES = 4 << 20
DEFAULT_MAX_ROW_BYTES = 64 << 20
_KEPT_BYTES = 1024
_FAULT_DETAILS = {
    "truncated": "expected the array to be closed by ]; got the end of the input",
    "trailing_data": "expected nothing after the array; got more data (the rest of the input was not read)",
}


@dataclass(frozen=True, slots=True)
class BlockFault:
    """A row that could not even be put into a block; counts as read and rejected.

    Attributes:
        raw: its first bytes; `size` is the whole row's.
    """

    line: int
    offset: int
    reason: str
    detail: str
    raw: bytes
    size: int


@dataclass(frozen=True, slots=True)
class Block:
    """Whole rows of one input, as newline-separated JSON documents.

    Attributes:
        index: 0.. over all inputs.
        source: the input as the user gave it.
        first_line: 1-based line of the first row; for arrays and tables the 1-based number of the element or row.
        first_offset: byte offset of the first row in the uncompressed input; -1 for tables.
        data: the documents. Line breaks inside an array's element are carriage returns here: as good as a line
            break between values and as wrong inside a string.
        kind: `lines`, `array` or `table`.
        lines: for arrays the true line where each row starts, for tables each row's number; None for JSON lines.
        offsets: for arrays where each row starts; None otherwise.
        faults: rows that are not in `data`.
    """

    index: int
    source: str
    first_line: int
    first_offset: int
    data: bytes
    kind: BlockKind = "lines"
    lines: tuple[int, ...] | None = None
    offsets: tuple[int, ...] | None = None
    faults: tuple[BlockFault, ...] = ()


def iter_blocks(
    sources: Sequence[Source],
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    max_row_bytes: int = DEFAULT_MAX_ROW_BYTES,
) -> Iterator[Block]:
    """Cut inputs into blocks of at most `block_bytes`, each as many whole rows as fit, at least one.

    The cut depends on the inputs' bytes and the two numbers alone. A row over `block_bytes` is a block of its own;
    one over `max_row_bytes` becomes a fault and is never held whole.

    Raises:
        OptionError: a number below 1.
        UserError: an input cannot be read.
    """
    for option, value in (("block_bytes", block_bytes), ("max_row_bytes", max_row_bytes)):
        if value < 1:
            raise OptionError(f"{option}: expected at least 1; got {value}")
    index = 0
    for source in sources:
        for block in _source_blocks(source, index, block_bytes, max_row_bytes):
            yield block
            index = block.index + 1
        source.finished()


def _source_blocks(source: Source, index: int, block_bytes: int, max_row_bytes: int) -> Iterator[Block]:
    if source.is_table:
        yield from _table_blocks(source, index, block_bytes)
        return
    with source.open_bytes() as stream:
        if source.kind == "detect" and stream.first_byte() == b"[":
            yield from _array_blocks(source.name, stream, index, block_bytes, max_row_bytes)
        else:
            yield from _line_blocks(source.name, stream, index, block_bytes, max_row_bytes)


def _line_blocks(name: str, stream: ByteStream, index: int, block_bytes: int, max_row_bytes: int) -> Iterator[Block]:
    line, offset, carry = 1, stream.offset, b""
    while True:
        head = carry + stream.read(block_bytes - len(carry))
        at_end = len(head) < block_bytes
        cut = len(head) if at_end else head.rfind(b"\n") + 1
        fault = None
        if cut or at_end:
            data, carry = head[:cut], head[cut:]
        else:
            data, carry, fault = _long_line(stream, head, line, offset, block_bytes, max_row_bytes)
        size = fault.size + 1 if fault else len(data)
        if data or fault:
            yield Block(index, name, line, offset, data, faults=(fault,) if fault else ())
            index += 1
        if at_end:
            return
        line += 1 if fault else data.count(b"\n")
        offset += size


def _long_line(
    stream: ByteStream, head: bytes, line: int, offset: int, block_bytes: int, max_row_bytes: int
) -> tuple[bytes, bytes, BlockFault | None]:
    """The line that `head` begins and what was read after it; a fault in its place when it is over the limit."""
    parts, size = [head], len(head)
    while True:
        chunk = stream.read(min(block_bytes, 1 << 20))
        end = chunk.find(b"\n")
        size += len(chunk) if end < 0 else end
        if size > max_row_bytes:  # keep nothing but the beginning
            parts = [b"".join(parts)[:_KEPT_BYTES]]
        else:
            parts.append(chunk if end < 0 else chunk[: end + 1])
        if end >= 0 or not chunk:
            break
    rest = chunk[end + 1 :] if end >= 0 else b""
    if size <= max_row_bytes:
        return b"".join(parts), rest, None
    return b"", rest, row_too_long(parts[0], size, line, offset, max_row_bytes)


def row_too_long(head: bytes, size: int, line: int, offset: int, max_row_bytes: int) -> BlockFault:
    """The fault of a row over the limit, of which only the beginning is kept."""
    detail = f"expected at most {max_row_bytes} bytes in a row; got {size}"
    return BlockFault(line, offset, "row_too_long", detail, head[:_KEPT_BYTES], size)


class _Gathering:
    """Rows of an array or table on their way into a block."""

    def __init__(self, source: str, kind: BlockKind, index: int, block_bytes: int) -> None:
        self.source = source
        self.kind: BlockKind = kind
        self.index = index
        self.block_bytes = block_bytes
        self.number = 1  # of the next row
        self._clear()

    def _clear(self) -> None:
        self.rows: list[bytes] = []
        self.lines: list[int] = []
        self.offsets: list[int] = []
        self.faults: list[BlockFault] = []
        self.size = 0
        self.first_offset = -1
        self.first_number = self.number

    def add(self, row: bytes, line: int, offset: int) -> Iterator[Block]:
        """Take one row; yields the block before it when that is full."""
        yield from self._make_room(len(row) + 1, offset)
        self.rows.append(row)
        self.lines.append(line)
        self.offsets.append(offset)

    def add_fault(self, fault: BlockFault) -> Iterator[Block]:
        yield from self._make_room(len(fault.raw) + 1, fault.offset)
        self.faults.append(fault)

    def _make_room(self, size: int, offset: int) -> Iterator[Block]:
        if self.size and self.size + size > self.block_bytes:
            yield self.flush()
        if not self.size:
            self.first_offset = offset
        self.size += size
        self.number += 1

    def flush(self) -> Block:
        block = Block(
            self.index,
            self.source,
            self.first_number,
            self.first_offset,
            b"".join(row + b"\n" for row in self.rows),
            self.kind,
            tuple(self.lines),
            tuple(self.offsets) if self.kind == "array" else None,
            tuple(self.faults),
        )
        self.index += 1
        self._clear()
        return block

    def rest(self) -> Iterator[Block]:
        if self.size:
            yield self.flush()


def _array_blocks(name: str, stream: ByteStream, index: int, block_bytes: int, max_row_bytes: int) -> Iterator[Block]:
    gathering = _Gathering(name, "array", index, block_bytes)
    for element in iter_elements(stream, max_row_bytes, _KEPT_BYTES):
        if element.reason:
            yield from gathering.add_fault(_element_fault(element, max_row_bytes))
        else:
            row = element.data.replace(b"\r\n", b" \r").replace(b"\n", b"\r")
            yield from gathering.add(row, element.line, element.offset)
    yield from gathering.rest()


def _element_fault(element: ArrayElement, max_row_bytes: int) -> BlockFault:
    if element.reason == "row_too_long":
        return row_too_long(element.data, element.size, element.line, element.offset, max_row_bytes)
    detail = _FAULT_DETAILS[element.reason]
    return BlockFault(element.line, element.offset, element.reason, detail, element.data, element.size)


def _table_blocks(source: Source, index: int, block_bytes: int) -> Iterator[Block]:
    gathering = _Gathering(source.name, "table", index, block_bytes)
    for row in source.table_rows():
        if row.reason:
            fault = BlockFault(gathering.number, -1, row.reason, row.detail, row.data, len(row.data))
            yield from gathering.add_fault(fault)
        else:
            yield from gathering.add(row.data, gathering.number, -1)
    yield from gathering.rest()

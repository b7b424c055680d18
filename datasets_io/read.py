"""A block of lines to conversations and rejects: accepted + rejected = read, always."""

from __future__ import annotations

import base64
import hashlib
import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import orjson

from renderers import Conversation, InputError

from .blocks import DEFAULT_MAX_ROW_BYTES, Block, BlockFault, iter_blocks, row_too_long
from .chat import is_plain
from .formats import convert_row
from .mapping import ColumnMapping, parse_mapping
from .rows import ROW_HASH_BYTES
from .sources import expand_inputs
from .validate import decode_row, exact_row

__all__ = [
    "ParsedBlock",
    "ParsedRow",
    "ReadOptions",
    "Reject",
    "format_reject",
    "parse_block",
    "read_conversations",
]

TABLE_NULL = "null in a table"
_WHITESPACE = b" \t\r"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How rows are read.

    Attributes:
        mapping: columns of other names, or None to detect the format of every row.
        max_row_bytes: a longer row is rejected.
    """

    mapping: ColumnMapping | None = None
    max_row_bytes: int = DEFAULT_MAX_ROW_BYTES


@dataclass(slots=True)
class ParsedRow:
    """One accepted row.

    Attributes:
        line: 1-based line of the file where it starts; the row's number in a table.
        offset: byte offset in the uncompressed input; -1 in a table.
        row_hash: blake2b of the row's bytes without surrounding whitespace, 16 bytes.
        format: one of `FORMATS`.
        conversations: one, or chosen and rejected.
    """

    line: int
    offset: int
    row_hash: bytes
    format: str
    conversations: list[Conversation]


@dataclass(frozen=True, slots=True)
class Reject:
    """One refused row: where, why, and the row itself.

    Attributes:
        raw: the whole row; of a row over the size limit its first bytes.
        size: the whole row's size in bytes.
    """

    source: str
    line: int
    offset: int
    field: str
    reason: str
    detail: str
    raw: bytes
    size: int

    def to_json(self) -> bytes:
        """One line for `rejects.jsonl`, without the line break. The row is text in `row`, or in `row_base64` when it
        is not UTF-8; `row_bytes` is there when only its beginning was kept."""
        fields: dict[str, Any] = {
            "source": self.source,
            "line": self.line,
            "offset": self.offset,
            "field": self.field,
            "reason": self.reason,
            "detail": self.detail,
        }
        try:
            fields["row"] = self.raw.decode("utf-8")
        except UnicodeDecodeError:
            fields["row_base64"] = base64.b64encode(self.raw).decode("ascii")
        if self.size != len(self.raw):
            fields["row_bytes"] = self.size
        return orjson.dumps({key: _whole(value) for key, value in fields.items()})


@dataclass(slots=True)
class ParsedBlock:
    """What a block held.

    Attributes:
        rows, rejects: in the order of the input.
        counts_by_format: accepted rows per format.
        num_read: rows read, blank lines not counted; always `len(rows) + len(rejects)`.
        num_blank: blank lines.
        ignored_fields: dropped keys that no template knows, with how often each came; `null in a table` counts
            empty cells inside table rows, which mean an absent key.
    """

    index: int
    source: str
    rows: list[ParsedRow] = field(default_factory=list[ParsedRow])
    rejects: list[Reject] = field(default_factory=list[Reject])
    counts_by_format: Counter[str] = field(default_factory=Counter[str])
    num_read: int = 0
    num_blank: int = 0
    ignored_fields: Counter[str] = field(default_factory=Counter[str])


def parse_block(block: Block, options: ReadOptions | None = None) -> ParsedBlock:
    """Parse, detect, validate and normalise every row of a block. A pure function; no row stops the others."""
    options = options or ReadOptions()
    parsed = ParsedBlock(block.index, block.source)
    lines, offsets = block.lines, block.offsets
    offset = block.first_offset
    documents = block.data.split(b"\n")
    if not documents[-1]:
        documents.pop()
    for i, document in enumerate(documents):
        raw = document.strip(_WHITESPACE)
        line = block.first_line + i if lines is None else lines[i]
        start = offset if offsets is None else offsets[i]
        if block.kind == "lines":
            offset += len(document) + 1
        if raw:
            _parse_row(parsed, block, raw, line, start, options)
        else:
            parsed.num_blank += 1
    for fault in block.faults:
        parsed.rejects.append(_fault_reject(block.source, fault))
    if block.faults:
        parsed.rejects.sort(key=lambda reject: (reject.line, reject.offset))
    parsed.num_read = len(parsed.rows) + len(parsed.rejects)
    return parsed


def _parse_row(parsed: ParsedBlock, block: Block, raw: bytes, line: int, offset: int, options: ReadOptions) -> None:
    if len(raw) > options.max_row_bytes:
        fault = row_too_long(raw, len(raw), line, offset, options.max_row_bytes)
        parsed.rejects.append(_fault_reject(block.source, fault))
        return
    try:
        row = decode_row(raw, line)
        # The shape that nearly all rows have costs one pass over its messages and nothing else.
        if type(row) is dict and len(row) == 1 and options.mapping is None and is_plain(row.get("messages")):
            name, conversations = "openai", [Conversation(row["messages"])]
        else:
            row = exact_row(raw, row, line)
            if block.kind == "table":
                row = _without_nulls(row, parsed.ignored_fields)
            name, conversations = convert_row(row, _place(block, line, offset), options.mapping, parsed.ignored_fields)
    except InputError as fault:
        parsed.rejects.append(_reject(block, raw, line, offset, fault))
        return
    except RecursionError:
        deep = InputError("", "too_deep", "expected fewer nested levels; got more than can be walked")
        parsed.rejects.append(_reject(block, raw, line, offset, deep))
        return
    digest = hashlib.blake2b(raw, digest_size=ROW_HASH_BYTES).digest()
    parsed.rows.append(ParsedRow(line, offset, digest, name, conversations))
    parsed.counts_by_format[name] += 1


def read_conversations(
    inputs: str | Sequence[str],
    mapping: ColumnMapping | str | None = None,
    strict: bool = False,
    on_reject: Callable[[Reject], None] | None = None,
) -> Iterator[Conversation]:
    """Conversations of files, globs, folders, standard input or datasets, one at a time, memory flat.

    Args:
        inputs: as for `expand_inputs`.
        mapping: columns of other names, such as `"user=question,assistant=answer"`.
        strict: stop at the first bad row.
        on_reject: called with every bad row; without it each is logged as a warning.

    Raises:
        InputError: the first bad row, when `strict`; its field starts with `source:line`.
        UserError: an input that cannot be read, or a bad mapping.
    """
    options = ReadOptions(parse_mapping(mapping) if isinstance(mapping, str) else mapping)
    report = on_reject or _log_reject
    for block in iter_blocks(expand_inputs([inputs] if isinstance(inputs, str) else inputs)):
        parsed = parse_block(block, options)
        if strict and parsed.rejects:
            first = parsed.rejects[0]
            before = (row for row in parsed.rows if (row.line, row.offset) < (first.line, first.offset))
            yield from (conversation for row in before for conversation in row.conversations)
            place = f"{first.source}:{first.line}"
            raise InputError(f"{place}: {first.field}" if first.field else place, first.reason, first.detail)
        for reject in parsed.rejects:
            report(reject)
        for row in parsed.rows:
            yield from row.conversations


def format_reject(reject: Reject) -> str:
    """One line for people: `train.jsonl:17: messages[2].role: expected …; got 'bot'`."""
    place = f"{reject.source}:{reject.line}"
    return f"{place}: {reject.field}: {reject.detail}" if reject.field else f"{place}: {reject.detail}"


def _log_reject(reject: Reject) -> None:
    _log.warning("%s", format_reject(reject))


def _place(block: Block, line: int, offset: int) -> str:
    """A name that no other row of the run has; in an array several elements may start on one line."""
    return f"{block.source}:{line}:{offset}" if block.kind == "array" else f"{block.source}:{line}"


def _reject(block: Block, raw: bytes, line: int, offset: int, fault: InputError) -> Reject:
    if block.kind == "array":
        raw = raw.replace(b"\r", b"\n")  # the line breaks as they were
    return Reject(block.source, line, offset, fault.field, fault.reason, fault.detail, raw, len(raw))


def _fault_reject(source: str, fault: BlockFault) -> Reject:
    return Reject(source, fault.line, fault.offset, "", fault.reason, fault.detail, fault.raw, fault.size)


def _without_nulls(value: Any, ignored: Counter[str]) -> Any:
    """A table's row without empty cells: Arrow pads every struct with the keys of all others."""
    if isinstance(value, dict):
        kept = {key: item for key, item in cast("dict[str, Any]", value).items() if item is not None}
        if len(kept) != len(cast("dict[str, Any]", value)):
            ignored[TABLE_NULL] += len(cast("dict[str, Any]", value)) - len(kept)
        return {
            key: _without_nulls(item, ignored) if isinstance(item, (dict, list)) else item for key, item in kept.items()
        }
    if isinstance(value, list):
        return [_without_nulls(item, ignored) for item in cast("list[Any]", value)]
    return value


def _whole(value: Any) -> Any:
    """Text that UTF-8 can hold: names and values quoted from a row may contain lone surrogates."""
    return value.encode("utf-8", "backslashreplace").decode("utf-8") if isinstance(value, str) else value

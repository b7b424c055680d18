"""Exact duplicates: the same messages and tools, however the rows that hold them are written. The first one stays."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import orjson

from .blocks import Block
from .read import ParsedRow, parse_block
from .spec import RenderSpec

__all__ = ["BlockDigests", "DigestTask", "find_duplicates", "row_digest"]

DIGEST_BYTES = 16


@dataclass(frozen=True, slots=True)
class BlockDigests:
    """Digests of a block's readable rows, 16 bytes each one after another, and their lines."""

    index: int
    source: str
    digests: bytes
    lines: npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class DigestTask:
    """Read one block and digest its rows."""

    block: Block
    spec: RenderSpec

    def __call__(self) -> BlockDigests:
        rows = parse_block(self.block, self.spec.read_options).rows
        lines = np.array([row.line for row in rows], np.int64)
        return BlockDigests(self.block.index, self.block.source, b"".join(map(row_digest, rows)), lines)


def row_digest(row: ParsedRow) -> bytes:
    """16 bytes that are equal for equal conversations, whatever their format, ids and metadata; keys in any order."""
    content: list[Any] = [[conversation.messages, conversation.tools] for conversation in row.conversations]
    try:
        data = orjson.dumps(content, option=orjson.OPT_SORT_KEYS)
    except TypeError:  # integers of more than 64 bits
        data = json.dumps(content, sort_keys=True, ensure_ascii=False).encode("utf-8", "surrogatepass")
    return hashlib.blake2b(data, digest_size=DIGEST_BYTES).digest()


def find_duplicates(blocks: Iterable[BlockDigests]) -> dict[int, Mapping[int, str]]:
    """Rows that repeat an earlier one.

    Args:
        blocks: of the whole input, in any order.

    Returns:
        For each block with such rows: their numbers among its readable rows, with the place of the first one.
    """
    ordered = sorted(blocks, key=lambda block: block.index)
    # Equal lengths, so that the zero bytes numpy takes for padding cannot make different digests equal.
    digests = np.frombuffer(b"".join(block.digests for block in ordered), f"S{DIGEST_BYTES}")
    _, first, of_row = np.unique(digests, return_index=True, return_inverse=True)
    first_row = first[of_row.reshape(-1)]
    starts = np.cumsum([0, *(len(block.lines) for block in ordered)])
    found: dict[int, dict[int, str]] = {}
    for row in np.flatnonzero(first_row != np.arange(len(digests))).tolist():
        here = int(np.searchsorted(starts, row, side="right")) - 1
        there = int(np.searchsorted(starts, first_row[row], side="right")) - 1
        line = int(ordered[there].lines[int(first_row[row]) - int(starts[there])])
        found.setdefault(ordered[here].index, {})[row - int(starts[here])] = f"{ordered[there].source}:{line}"
    return dict(found)

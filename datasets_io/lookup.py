"""Finding the rows to look at: in shards by number or by input line, or rendered from a file on the fly."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import orjson

from renderers import OptionError, Tokenizer, UserError, get_tokenizer

from .block_render import SPLITS, render_block, renderer_of
from .blocks import Block, iter_blocks
from .columns import BatchView
from .manifest import MANIFEST_NAME, Manifest
from .read import format_reject
from .rows import Row
from .run_folder import DROPS_NAME, REJECTS_NAME
from .shards import ShardReader
from .sources import Source, expand_inputs
from .spec import RenderSpec
from .view import RowView, view_row
from .visible import printable

__all__ = ["Found", "line_number", "render_views", "row_range", "shard_tokenizer", "shard_views"]

_RANGE = re.compile(r"(\d*):(\d*)")


@dataclass(slots=True)
class Found:
    """Rows found, what they are of, and what was asked for but is not among them, one line each."""

    title: str
    views: list[RowView]
    left_out: list[str] = field(default_factory=list[str])


def row_range(text: str) -> range:
    """`3:8` as range(3, 8), `3` as range(3, 4), `:8` from the first; `3:` means up to 20 rows.

    Raises:
        OptionError: anything else, or an empty range.
    """
    match = _RANGE.fullmatch(text)
    if match:
        start = int(match[1] or 0)
        found = range(start, int(match[2]) if match[2] else start + 20)
    else:
        found = range(int(text), int(text) + 1) if text.isdecimal() else range(0)
    if not found:
        raise OptionError(f"rows: expected a number or a range such as 0:20; got {text!r}")
    return found


def line_number(text: str) -> tuple[str, int]:
    """`SOURCE:LINE` taken apart; raises OptionError."""
    source, colon, line = text.rpartition(":")
    if not colon or not source or not line.isdecimal():
        raise OptionError(f"line: expected SOURCE:LINE such as train.jsonl:17; got {text!r}")
    return source, int(line)


# -- shards


def shard_tokenizer(manifest: Manifest, model: str | None = None) -> Tokenizer:
    """The tokenizer of a finished folder.

    Args:
        manifest: of the folder.
        model: folder or hub id, where it is not where the manifest says.

    Raises:
        UserError: it cannot be loaded, or is not the one that the folder was made with.
    """
    name = model or manifest.notes.model
    if not name:
        raise UserError("model: expected the folder or hub id of the tokenizer, as these shards do not name one")
    try:
        tokenizer = get_tokenizer(name)
    except UserError as error:
        raise error if model else UserError(f"{error} (--model says where these shards' model is now)") from None
    if tokenizer.fingerprint != manifest.run.tokenizer_sha256:
        raise UserError(
            f"{name}: expected the tokenizer that these shards were made with, sha256 "
            f"{manifest.run.tokenizer_sha256[:12]}…; got {tokenizer.fingerprint[:12]}…"
        )
    return tokenizer


def shard_views(
    folder: str | os.PathLike[str],
    rows: range | None = None,
    line: tuple[str, int] | None = None,
    split: str | None = None,
    model: str | None = None,
) -> Found:
    """Rows of a finished folder.

    Args:
        folder: with `manifest.json`.
        rows: their numbers in the split; the first when neither `rows` nor `line` says otherwise. What is beyond the
            last row is left out, not an error, when at least one row is there.
        line: (source, line) whose rows are wanted; the source as the manifest names it, or the end of its path.
        split: `train` where there is one, when None; with `line` all splits.
        model: see `shard_tokenizer`.

    Raises:
        UserError: not a finished folder, no such split, row or line, no tokenizer.
    """
    manifest = Manifest.load(folder)
    tokenizer = shard_tokenizer(manifest, model)
    if line is not None:
        return Found(f"{folder}", _rows_of_line(folder, manifest, tokenizer, line, split))
    split = split or ("train" if "train" in manifest.splits else next(iter(manifest.splits), "train"))
    with ShardReader(folder, split) as reader:
        wanted = rows or range(1)
        if wanted.start >= len(reader):
            raise UserError(f"{folder}: expected a row from 0 to {len(reader) - 1} of {split}; got {wanted.start}")
        numbers = range(wanted.start, min(wanted.stop, len(reader)))
        views = [_view(reader, number, split, tokenizer) for number in numbers]
    return Found(f"{folder}", views)


def _view(reader: ShardReader, number: int, split: str, tokenizer: Tokenizer) -> RowView:
    try:
        return view_row(reader.row(number), tokenizer, number, f"{split} row {number}")
    except UserError as error:
        raise UserError(f"{reader.path}: {split} row {number}: {error}") from None


def _rows_of_line(
    folder: str | os.PathLike[str], manifest: Manifest, tokenizer: Tokenizer, line: tuple[str, int], split: str | None
) -> list[RowView]:
    views: list[RowView] = []
    source = _source_name(manifest, line[0])
    for name in [split] if split else sorted(manifest.splits, reverse=True):
        with ShardReader(folder, name) as reader:
            first = 0
            for batch in reader.batches():
                on_line = (batch.numbers("line") == line[1]).nonzero()[0].tolist()
                from_source = [first + i for i in on_line if batch.provenance(i).source == source]
                views += [_view(reader, number, name, tokenizer) for number in from_source]
                first += batch.num_rows
    if not views:
        why = _fate(Path(folder), source, line[1])
        raise UserError(f"{folder}: expected a row that came from {source}:{line[1]}; got none{why}")
    return views


def _fate(folder: Path, source: str, line: int) -> str:
    """Why a line gave no row, where `rejects.jsonl` or `drops.jsonl` know."""
    for name, word in ((REJECTS_NAME, "rejected"), (DROPS_NAME, "left out")):
        path = folder / name
        if not path.is_file():
            continue
        with path.open("rb") as entries:
            for raw in entries:
                entry: dict[str, Any] = orjson.loads(raw)
                if (entry["source"], entry["line"]) == (source, line):
                    return f", as it was {word}: {printable(entry['detail'])}"
    return ""


def _source_name(manifest: Manifest, wanted: str) -> str:
    """The one source that is called so, or whose path ends so."""
    names = list(dict.fromkeys([*manifest.sources, *(file.path for file in manifest.run.inputs)]))
    matching = [name for name in names if name == wanted] or [name for name in names if name.endswith(f"/{wanted}")]
    if len(matching) != 1:
        raise UserError(f"line: expected one of {', '.join(names)}; got {wanted!r}")
    return matching[0]


# -- files


def render_views(path: str, spec: RenderSpec, lines: range) -> Found:
    """Rows that some lines of a file would become, rendered as `render` does.

    Args:
        path: one input of `render`; of an array or a table its elements or rows are counted.
        spec: how to render.
        lines: 1-based numbers of lines. What is beyond the last is left out, when at least one line is there.

    Returns:
        The examples in order, one line or several to each; rejects and drops are in `left_out`.

    Raises:
        UserError: no such input or line, no such model, or none of the lines gives a row.
    """
    if lines.start < 1:
        raise UserError(f"{path}: expected lines from 1 on; got {lines.start}")
    sources = _single_input(path)
    tokenizer = renderer_of(spec).tokenizer
    found = Found(path, [])
    last = 0
    for block in iter_blocks(sources, spec.block_bytes, spec.max_row_bytes):
        part, last = _lines_of(block, lines)
        if part is not None:
            _render_part(part, spec, tokenizer, found)
        if last >= lines.stop - 1:
            break
    if last < lines.start:
        raise UserError(f"{path}: expected a line from 1 to {last}; got {lines.start}")
    if not found.views:
        raise UserError(found.left_out[0] if found.left_out else f"{path}:{lines.start}: expected a row; got nothing")
    return found


def _single_input(path: str) -> list[Source]:
    file = Path(path)
    if file.suffix == ".arrow" and (file.parent / MANIFEST_NAME).is_file():
        raise UserError(f"{path}: expected the folder of these shards, {file.parent}; got one of its files")
    sources = expand_inputs([path])
    if len(sources) != 1:
        raise UserError(f"{path}: expected one input; got {len(sources)}")
    return sources


def _lines_of(block: Block, wanted: range) -> tuple[Block | None, int]:
    """The part of a block that holds wanted rows (None: no part), and the number of the block's last row."""
    documents = block.data.split(b"\n")
    if not documents[-1]:
        documents.pop()
    numbers, fault_numbers = _row_numbers(block, len(documents))
    last = max([*numbers, *fault_numbers], default=0)
    keep = [i for i, number in enumerate(numbers) if number in wanted]
    faults = tuple(fault for fault, number in zip(block.faults, fault_numbers, strict=True) if number in wanted)
    if not keep and not faults:
        return None, last
    start, stop = (keep[0], keep[-1] + 1) if keep else (0, 0)
    return replace(
        block,
        first_line=numbers[start] if keep else block.first_line,
        first_offset=block.first_offset + sum(len(document) + 1 for document in documents[:start]),
        data=b"".join(document + b"\n" for document in documents[start:stop]),
        lines=None if block.lines is None else block.lines[start:stop],
        offsets=None if block.offsets is None else block.offsets[start:stop],
        faults=faults,
    ), last


def _row_numbers(block: Block, size: int) -> tuple[list[int], list[int]]:
    """What `render_views` calls a line, of a block's rows and of its faults: lines of JSON lines, rows of a table,
    elements of an array."""
    if block.offsets is None:
        numbers = block.lines or range(block.first_line, block.first_line + size)
        return list(numbers), [fault.line for fault in block.faults]
    order = sorted([*block.offsets, *(fault.offset for fault in block.faults)])
    number = {offset: block.first_line + i for i, offset in enumerate(order)}
    return [number[offset] for offset in block.offsets], [number[fault.offset] for fault in block.faults]


def _render_part(block: Block, spec: RenderSpec, tokenizer: Tokenizer, found: Found) -> None:
    result = render_block(block, spec)
    found.left_out += [printable(format_reject(reject)) for reject in result.rejects]
    found.left_out += [
        printable(f"{drop.source}:{drop.line}: left out: {drop.reason}: {drop.detail}") for drop in result.drops
    ]
    rows = [(split, row) for split in SPLITS for row in _rows(BatchView(result.batches[split]))]
    rows.sort(key=lambda pair: (pair[1].provenance.line, pair[1].provenance.side or "", pair[1].provenance.example))
    for split, row in rows:
        place = row.provenance
        name = f"line {place.line}"
        name += f", {place.side}" if place.side else ""
        name += f", example {place.example}" if place.turn >= 0 or place.example else ""
        name += f" ({split})" if spec.eval_fraction else ""
        found.views.append(view_row(row, tokenizer, place.example, name))


def _rows(view: BatchView) -> Iterator[Row]:
    return (view.row(i) for i in range(view.num_rows))

"""`render_block`: a block of raw rows to record batches, rejects and counts. A pure function, for any engine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import orjson

from renderers import RenderedBlock, Renderer, get_renderer, get_tokenizer

from .arrow_numpy import ArrowBatch, bits
from .block_rows import BlockMeta, block_to_batch
from .blocks import Block
from .flat_rows import UNTRAINED, Drop, FlatRows, without_unfit
from .lengths import fit_lengths
from .read import ParsedBlock, ParsedRow, Reject, parse_block
from .spec import RenderSpec
from .windows import take_windows, whole_windows

__all__ = ["SPLITS", "BlockResult", "is_held_out", "render_block", "renderer_of", "row_bytes"]

SPLITS = ("train", "eval")
_EVAL_SALT = b"datumloom.eval.1"
_RENDERERS_KEPT = 4
_MOST_MESSAGES = np.iinfo(np.int16).max  # message numbers are stored as int16


@dataclass(slots=True)
class BlockResult:
    """What a block became; read = accepted + len(rejects).

    Attributes:
        batches: rows that can train, by split; every split is there, possibly empty.
        rejects: refused rows, by the reader or the renderer, in input order.
        drops: what accepted rows lost, in input order.
        formats: accepted rows by format.
        events: what happened in rows that were kept, by name; only what did happen.
        ignored_fields: see `ParsedBlock.ignored_fields`.
        encoder: what encoded, and why it was not the fast one (None where it was, or was not wanted).
    """

    index: int
    source: str
    batches: dict[str, ArrowBatch]
    rejects: list[Reject]
    drops: list[Drop]
    read: int
    accepted: int
    formats: Counter[str]
    events: Counter[str]
    ignored_fields: Counter[str]
    encoder: str
    encoder_fallback: str | None


_renderers: dict[tuple[Any, ...], Renderer] = {}


def renderer_of(spec: RenderSpec) -> Renderer:
    """The renderer of a spec, loaded once per process (again when the model's folder has changed).

    Raises:
        UserError: no such model, no chat template, an unknown renderer or option.
    """
    options = orjson.dumps(spec.renderer_options, option=orjson.OPT_SORT_KEYS)
    key = (_stamp(spec.model), spec.renderer, options, spec.backend)
    if key not in _renderers:
        renderer = get_renderer(spec.renderer, get_tokenizer(spec.model, backend=spec.backend), **spec.renderer_options)
        renderer.keeps_image_bytes = False  # shards hold references
        while len(_renderers) >= _RENDERERS_KEPT:
            _renderers.pop(next(iter(_renderers)), None)
        _renderers[key] = renderer
    return _renderers[key]


def _stamp(model: str) -> tuple[Any, ...]:
    """Names a model: by its folder, however that was written, and the state of the files there."""
    folder = Path(model)
    if not folder.is_dir():
        return (model,)
    files = [path for path in folder.iterdir() if path.suffix in (".json", ".jinja")]
    return str(folder.resolve()), *((path.name, *_size_and_time(path)) for path in sorted(files))


def _size_and_time(path: Path) -> tuple[int, int]:
    status = path.stat()
    return status.st_size, status.st_mtime_ns


def is_held_out(row_hash: bytes, fraction: float) -> bool:
    """Whether a row belongs to `eval`: by its own bytes alone, so whatever else is in the input, and in which order.

    A larger fraction holds out the same rows and more.
    """
    digest = hashlib.blake2b(_EVAL_SALT + row_hash, digest_size=8).digest()
    return int.from_bytes(digest, "big") < fraction * 2.0**64


def render_block(block: Block, spec: RenderSpec, duplicates: Mapping[int, str] | None = None) -> BlockResult:
    """Parse, render, fit, shift and lay out one block.

    A row is rejected when it cannot be read, or when a conversation of it gives no example because the renderer
    refuses it or all its turns. Everything that an accepted row loses is a drop: turns that the renderer refuses
    while others are fine, what a policy leaves out, examples without a trained token, and the other half of a
    preference pair whose one half is lost.

    Args:
        block: from `iter_blocks`.
        spec: how to render.
        duplicates: rows to drop, by their number among the block's readable rows: where they came first.

    Raises:
        ParityError: the fast encoder disagreed; render everything again with `backend="tokenizers"`.
        UserError: the model cannot be loaded.
    """
    renderer = renderer_of(spec)
    parsed = parse_block(block, spec.read_options)
    parsed.rejects += _oversized(block, parsed)
    flat = FlatRows.of([
        row
        for i, row in enumerate(parsed.rows)
        if (not duplicates or i not in duplicates) and not _is_oversized(row)
    ])  # fmt: skip
    rendered = renderer.render_block(flat.conversations, spec.settings)
    _sort_refusals(block, flat, rendered)
    whole = rendered
    if flat.rejected:
        rejected = np.isin(flat.row_of[rendered.conversation], list(flat.rejected))
        whole = take_windows(rendered, whole_windows(rendered, ~rejected))
    fitted = fit_lengths(whole, flat.conversations, renderer, spec)
    flat.lose(block.source, fitted.losses)
    final = without_unfit(block.source, flat, fitted.rendered, spec.weights)
    drops = [drop for _, drop in sorted(flat.drops, key=lambda item: item[0])]
    if duplicates:
        drops = sorted([*drops, *_duplicate_drops(parsed, duplicates)], key=lambda drop: drop.line)
    rejects = sorted([*parsed.rejects, *flat.rejected.values()], key=lambda reject: (reject.line, reject.offset))
    formats = parsed.counts_by_format.copy()
    formats.subtract(flat.rows[row].format for row in flat.rejected)
    return BlockResult(
        index=block.index,
        source=block.source,
        batches=_batches(block.source, flat, final, spec, images=renderer.takes_images),
        rejects=rejects,
        drops=drops,
        read=parsed.num_read,
        accepted=parsed.num_read - len(rejects),
        formats=+formats,
        events=+(rendered.counts + fitted.events + Counter(blank_lines=parsed.num_blank)),
        ignored_fields=parsed.ignored_fields,
        encoder=renderer.tokenizer.backend_name,
        encoder_fallback=renderer.tokenizer.fallback_reason,
    )


def _duplicate_drops(parsed: ParsedBlock, duplicates: Mapping[int, str]) -> list[Drop]:
    return [
        Drop(parsed.source, parsed.rows[i].line, None, "duplicate", f"the same conversation as {first}")
        for i, first in sorted(duplicates.items())
    ]


# -- rejects


def _is_oversized(row: ParsedRow) -> bool:
    return any(len(conversation.messages) > _MOST_MESSAGES for conversation in row.conversations)


def _oversized(block: Block, parsed: ParsedBlock) -> list[Reject]:
    """Rows with more messages than can be numbered."""
    rejects: list[Reject] = []
    for row in filter(_is_oversized, parsed.rows):
        raw = row_bytes(block)[row.line, row.offset]
        number = max(len(conversation.messages) for conversation in row.conversations)
        detail = f"expected at most {_MOST_MESSAGES} messages; got {number}"
        rejects.append(
            Reject(block.source, row.line, row.offset, "messages", "too_many_messages", detail, raw, len(raw))
        )
        parsed.counts_by_format[row.format] -= 1
    return rejects


def _sort_refusals(block: Block, flat: FlatRows, rendered: RenderedBlock) -> None:
    """Refusals to rejects (nothing is left of a conversation) and drops (something is, or a policy wanted it)."""
    examples = np.bincount(rendered.conversation, minlength=len(flat.conversations))
    silent = set(np.flatnonzero(examples == 0).tolist()) - {refusal.conversation for refusal in rendered.refusals}
    for conversation in sorted(silent):
        flat.drop(block.source, int(flat.row_of[conversation]), None, "no_trained_tokens", UNTRAINED)
    documents: dict[tuple[int, int], bytes] | None = None
    for refusal in rendered.refusals:
        row = int(flat.row_of[refusal.conversation])
        if not refusal.dropped and not examples[refusal.conversation] and row not in flat.rejected:
            documents = documents or row_bytes(block)
            parsed = flat.rows[row]
            raw = documents[parsed.line, parsed.offset]
            flat.rejected[row] = Reject(
                block.source, parsed.line, parsed.offset, refusal.field, refusal.reason, refusal.detail, raw, len(raw)
            )
    for refusal in rendered.refusals:
        row = int(flat.row_of[refusal.conversation])
        if row not in flat.rejected:
            detail = f"{refusal.field}: {refusal.detail}" if refusal.field else refusal.detail
            flat.drop(block.source, row, refusal.turn, refusal.reason, detail)


def row_bytes(block: Block) -> dict[tuple[int, int], bytes]:
    """The rows of a block by line and offset, as they stand in the input, without white space around them."""
    found: dict[tuple[int, int], bytes] = {}
    offset = block.first_offset
    for i, document in enumerate(block.data.split(b"\n")):
        raw = document.strip(b" \t\r")
        if raw:
            line = block.first_line + i if block.lines is None else block.lines[i]
            start = offset if block.kind == "lines" else -1 if block.offsets is None else block.offsets[i]
            found[line, start] = raw.replace(b"\r", b"\n") if block.kind == "array" else raw
        offset += len(document) + 1
    return found


# -- rows


def _batches(
    source: str, flat: FlatRows, rendered: RenderedBlock, spec: RenderSpec, *, images: bool
) -> dict[str, ArrowBatch]:
    lines = np.array([row.line for row in flat.rows], np.int64)[flat.row_of]
    hashes = [row.row_hash for row in flat.rows]
    meta = BlockMeta.of(flat.conversations, source, lines, [hashes[row] for row in flat.row_of.tolist()])
    batch = block_to_batch(rendered, meta, spec.weights, images=images).batch
    if not spec.eval_fraction:
        return {"train": batch, "eval": batch.slice(0, 0)}
    held_out = np.array([is_held_out(row_hash, spec.eval_fraction) for row_hash in hashes], np.bool_)
    is_eval = held_out[flat.row_of[rendered.conversation]]
    return {"train": batch.filter(bits(~is_eval)), "eval": batch.filter(bits(is_eval))}

"""`render_block`: a block of raw rows to record batches, rejects and counts. A pure function, for any engine."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from renderers import Conversation, RenderedBlock, Renderer, get_renderer, get_tokenizer, shift_block

from .arrow_numpy import ArrowBatch, bits
from .block_rows import BlockMeta, block_to_batch
from .blocks import Block
from .lengths import Loss, fit_lengths
from .read import ParsedBlock, ParsedRow, Reject, parse_block
from .spec import RenderSpec
from .windows import take_windows, trained_counts, whole_windows

__all__ = ["SPLITS", "BlockResult", "Drop", "is_held_out", "render_block", "renderer_of", "row_bytes"]

SPLITS = ("train", "eval")
_EVAL_SALT = b"datumloom.eval.1"
_RENDERERS_KEPT = 4
_MOST_MESSAGES = np.iinfo(np.int16).max  # message numbers are stored as int16


class Drop(NamedTuple):
    """What an accepted row lost: a conversation, a turn or an example; `message` is None when it is not one turn."""

    source: str
    line: int
    message: int | None
    reason: str
    detail: str

    def to_json(self) -> bytes:
        """One line of `drops.jsonl`, without the line break."""
        detail = self.detail.encode("utf-8", "backslashreplace").decode("utf-8")
        return orjson.dumps({**self._asdict(), "detail": detail})


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


@dataclass(slots=True)
class _Rows:
    """A block's rows with their conversations laid out flat."""

    rows: list[ParsedRow]
    conversations: list[Conversation]
    row_of: npt.NDArray[np.int64]  # (num_conversations,)
    rejected: dict[int, Reject] = field(default_factory=dict[int, Reject])
    drops: list[tuple[int, Drop]] = field(default_factory=list[tuple[int, Drop]])

    @classmethod
    def of(cls, rows: list[ParsedRow]) -> _Rows:
        conversations = [conversation for row in rows for conversation in row.conversations]
        counts = [len(row.conversations) for row in rows]
        return cls(rows, conversations, np.repeat(np.arange(len(rows)), counts))

    def drop(self, source: str, row: int, message: int | None, reason: str, detail: str) -> None:
        self.drops.append((row, Drop(source, self.rows[row].line, message, reason, detail)))

    def lose(self, source: str, losses: Sequence[Loss]) -> None:
        for loss in losses:
            self.drop(source, int(self.row_of[loss.conversation]), loss.message, loss.reason, loss.detail)


@lru_cache(maxsize=_RENDERERS_KEPT)
def _renderer(model: str, name: str, options: bytes, backend: str) -> Renderer:
    return get_renderer(name, get_tokenizer(model, backend=backend), **orjson.loads(options))  # type: ignore[arg-type]


def renderer_of(spec: RenderSpec) -> Renderer:
    """The renderer of a spec, loaded once per process.

    Raises:
        UserError: no such model, no chat template, an unknown renderer or option.
    """
    options = orjson.dumps(spec.renderer_options, option=orjson.OPT_SORT_KEYS)
    return _renderer(spec.model, spec.renderer, options, spec.backend)


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
    flat = _Rows.of([
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
    final = _without_unfit(block.source, flat, fitted.rendered, spec)
    drops = [drop for _, drop in sorted(flat.drops, key=lambda item: item[0])]
    if duplicates:
        drops = sorted([*drops, *_duplicate_drops(parsed, duplicates)], key=lambda drop: drop.line)
    rejects = sorted([*parsed.rejects, *flat.rejected.values()], key=lambda reject: (reject.line, reject.offset))
    formats = parsed.counts_by_format.copy()
    formats.subtract(flat.rows[row].format for row in flat.rejected)
    return BlockResult(
        index=block.index,
        source=block.source,
        batches=_batches(block.source, flat, final, spec),
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


def _sort_refusals(block: Block, flat: _Rows, rendered: RenderedBlock) -> None:
    """Refusals to rejects (nothing is left of a conversation) and drops (something is, or a policy wanted it)."""
    if not rendered.refusals:
        return
    examples = np.bincount(rendered.conversation, minlength=len(flat.conversations))
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


# -- drops


def _without_unfit(source: str, flat: _Rows, rendered: RenderedBlock, spec: RenderSpec) -> RenderedBlock:
    """Without examples that train nothing or have no mean weight, and without halves of broken pairs."""
    untrained = trained_counts(rendered) == 0
    keep = ~untrained
    _lose_examples(
        source, flat, rendered, untrained, "no_trained_tokens", "expected something to train on; got weights of 0 only"
    )
    if spec.weights == "mean":
        weightless = keep & _without_mean(rendered)
        keep &= ~weightless
        _lose_examples(source, flat, rendered, weightless, "no_mean", "expected weights with a sum above 0")
    if len(flat.conversations) > len(flat.rows):
        broken = keep & _broken_pairs(flat, rendered, keep)
        keep &= ~broken
        _lose_examples(source, flat, rendered, broken, "pair_broken", "the other half of this pair gives no example")
    return rendered if keep.all() else take_windows(rendered, whole_windows(rendered, keep))


def _lose_examples(
    source: str, flat: _Rows, rendered: RenderedBlock, lost: npt.NDArray[np.bool_], reason: str, detail: str
) -> None:
    for example in np.flatnonzero(lost).tolist():
        turn = int(rendered.turn[example])
        row = int(flat.row_of[rendered.conversation[example]])
        flat.drop(source, row, None if turn < 0 else turn, reason, detail)


def _without_mean(rendered: RenderedBlock) -> npt.NDArray[np.bool_]:
    """Examples whose weights, after the shift and summed as `mean_weights` does, sum to 0 or less."""
    _, _, weights, offsets = shift_block(rendered.tokens, rendered.weights, rendered.offsets)
    nonempty = np.diff(offsets) > 0
    sums = np.zeros(len(rendered), np.float64)
    if nonempty.any():
        sums[nonempty] = np.add.reduceat(weights, offsets[:-1][nonempty], dtype=np.float64)
    return sums <= 0


def _broken_pairs(flat: _Rows, rendered: RenderedBlock, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Examples of rows of which another conversation has no example left."""
    examples = np.bincount(rendered.conversation[keep], minlength=len(flat.conversations))
    lost = np.zeros(len(flat.rows), np.bool_)
    lost[flat.row_of[examples == 0]] = True
    return lost[flat.row_of[rendered.conversation]]


# -- rows


def _batches(source: str, flat: _Rows, rendered: RenderedBlock, spec: RenderSpec) -> dict[str, ArrowBatch]:
    lines = np.array([row.line for row in flat.rows], np.int64)[flat.row_of]
    hashes = [row.row_hash for row in flat.rows]
    meta = BlockMeta.of(flat.conversations, source, lines, [hashes[row] for row in flat.row_of.tolist()])
    batch = block_to_batch(rendered, meta, spec.weights).batch
    if not spec.eval_fraction:
        return {"train": batch, "eval": batch.slice(0, 0)}
    held_out = np.array([is_held_out(row_hash, spec.eval_fraction) for row_hash in hashes], np.bool_)
    is_eval = held_out[flat.row_of[rendered.conversation]]
    return {"train": batch.filter(bits(~is_eval)), "eval": batch.filter(bits(is_eval))}

"""A rendered block as a record batch: the shift, the counts and the columns in numpy, no loop over tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from renderers import (
    Conversation,
    InternalError,
    Reduction,
    RenderedBlock,
    UserError,
    count_trained,
    mean_weights,
    shift_block,
)

from .arrow_numpy import ArrowBatch, bits, bytes_column, list_column, numbers, strings
from .block_images import images_column
from .rows import NO_ROLE, ROLE_CODES, ROW_HASH_BYTES
from .schema import RowLayout, schema_of, segments_column

__all__ = ["BlockBatch", "BlockMeta", "block_to_batch"]


@dataclass(frozen=True, slots=True)
class BlockMeta:
    """Where each conversation of a block came from; c conversations.

    Attributes:
        sources: distinct source names.
        source_index: int32 (c,), into `sources`.
        lines: int64 (c,), line numbers.
        row_hashes: uint8 (c, 16).
        conversation_ids: (c,), None where the row has none.
        pairs: (c,), None where the conversation is no half of a pair.
        sides: (c,), likewise.
        roles: int8, `ROLE_CODES` of all messages, conversation after conversation.
        role_offsets: int64 (c + 1,), where each conversation's messages start in `roles`.
    """

    sources: list[str]
    source_index: npt.NDArray[np.int32]
    lines: npt.NDArray[np.int64]
    row_hashes: npt.NDArray[np.uint8]
    conversation_ids: list[str | None]
    pairs: list[str | None]
    sides: list[str | None]
    roles: npt.NDArray[np.int8]
    role_offsets: npt.NDArray[np.int64]

    @classmethod
    def of(
        cls,
        conversations: Sequence[Conversation],
        source: str | Sequence[str],
        lines: Sequence[int] | npt.NDArray[np.int64],
        row_hashes: Sequence[bytes],
    ) -> BlockMeta:
        """From the conversations of a block, in the order in which they were rendered.

        Args:
            conversations: normalised; `metadata` may hold `pair` and `side`.
            source: one name for all, or one per conversation.
            lines: one line number per conversation.
            row_hashes: 16 bytes per conversation.
        """
        names = [source] * len(conversations) if isinstance(source, str) else list(source)
        index = {name: i for i, name in enumerate(dict.fromkeys(names))}
        num_messages = [len(conversation.messages) for conversation in conversations]
        hashes = np.frombuffer(b"".join(row_hashes), np.uint8).reshape(-1, ROW_HASH_BYTES)
        if not len(names) == len(lines) == len(hashes) == len(conversations):
            raise InternalError("block meta: expected one source, line and hash per conversation")
        return cls(
            sources=list(index),
            source_index=np.array([index[name] for name in names], np.int32),
            lines=np.asarray(lines, np.int64),
            row_hashes=hashes,
            conversation_ids=[conversation.id for conversation in conversations],
            pairs=[_text(conversation.metadata.get("pair")) for conversation in conversations],
            sides=[_text(conversation.metadata.get("side")) for conversation in conversations],
            roles=np.array([ROLE_CODES[message["role"]] for c in conversations for message in c.messages], np.int8),
            role_offsets=np.concatenate([np.zeros(1, np.int64), np.cumsum(num_messages, dtype=np.int64)]),
        )


class BlockBatch(NamedTuple):
    """What a block became.

    Attributes:
        batch: the rows that can train, in order.
        too_short: int64, indices of examples with fewer than 2 tokens, left out.
        untrained: int64, indices of examples without a nonzero weight after the shift, left out.
        without_mean: int64, indices of examples whose weights sum to 0 or less where a mean was asked for, left out.
    """

    batch: ArrowBatch
    too_short: npt.NDArray[np.int64]
    untrained: npt.NDArray[np.int64]
    without_mean: npt.NDArray[np.int64]


def block_to_batch(
    rendered: RenderedBlock, meta: BlockMeta, reduction: Reduction = "none", *, images: bool = False
) -> BlockBatch:
    """Shift a block and lay it out as rows of the default `RowLayout`.

    `example` numbers the examples of a conversation before any is left out.

    Args:
        rendered: of the conversations that `meta` is about.
        meta: where they came from.
        reduction: `mean` divides each example's weights by their sum.
        images: with an `images` column, also where this block has none, so that all files of a run are alike. A block
            with images always has one.

    Raises:
        UserError: 2**31 tokens or more in one block.
        InternalError: an image with a weight, or at the end of an example, where the shift would cut it.
    """
    if len(rendered.tokens) > np.iinfo(np.int32).max:
        raise UserError(f"block: expected fewer than 2**31 tokens; got {len(rendered.tokens)}; use smaller blocks")
    inputs, targets, weights, offsets = shift_block(rendered.tokens, rendered.weights, rendered.offsets)
    num_trained = count_trained(weights, offsets)
    without_mean = np.empty(0, np.int64)
    if reduction == "mean":
        weights, without_mean = mean_weights(weights, offsets)
    conversation = rendered.conversation
    columns = [
        list_column(numbers(inputs), offsets),
        list_column(numbers(targets), offsets),
        list_column(numbers(weights), offsets),
        segments_column(rendered.run_starts, rendered.run_messages, _run_roles(rendered, meta), rendered.run_offsets),
        pa.DictionaryArray.from_arrays(numbers(meta.source_index[conversation]), strings(meta.sources)),
        numbers(meta.lines[conversation]),
        numbers(rendered.turn),
        numbers(_example_numbers(conversation)),
        *(_taken(values, conversation) for values in (meta.conversation_ids, meta.pairs, meta.sides)),
        bytes_column(meta.row_hashes[conversation]),
        numbers(np.diff(offsets).astype(np.int32)),
        numbers(num_trained),
    ]
    layout = RowLayout(images=images or bool(rendered.images))
    if layout.images:
        _check_images(rendered)
        columns.append(images_column(rendered.images, len(rendered)))
    batch = pa.RecordBatch.from_arrays(columns, schema=schema_of(layout))
    short = np.diff(rendered.offsets) < 2
    untrained = ~short & (num_trained == 0)
    unfit = short | untrained
    unfit[without_mean] = True
    if unfit.any():
        batch = batch.filter(bits(~unfit))
    return BlockBatch(batch, np.flatnonzero(short), np.flatnonzero(untrained), without_mean)


def _check_images(rendered: RenderedBlock) -> None:
    """That images are 0 in tokens and weights, and whole after the shift."""
    for example, position, chunk in rendered.images:
        start, stop = int(rendered.offsets[example]) + position, int(rendered.offsets[example + 1])
        inside = slice(start, start + chunk.length)
        if start + chunk.length >= stop or rendered.tokens[inside].any() or rendered.weights[inside].any():
            raise InternalError(
                f"rendered block: example {example}: expected 0 at an image's positions and text behind it"
            )


def _taken(values: list[str | None], index: npt.NDArray[np.int32]) -> Any:
    """A string column of the values at `index`; most often there are none, and then no value is touched."""
    if not any(values):
        return pa.nulls(len(index), pa.string())
    return strings([values[i] for i in index.tolist()])


def _run_roles(rendered: RenderedBlock, meta: BlockMeta) -> npt.NDArray[np.int8]:
    """Role code of each run, looked up through its example's conversation."""
    conversation = np.repeat(rendered.conversation, np.diff(rendered.run_offsets))
    messages = rendered.run_messages.astype(np.int64)
    of_message = messages >= 0
    position = meta.role_offsets[conversation] + messages
    if (position[of_message] >= meta.role_offsets[conversation + 1][of_message]).any():
        raise InternalError("rendered block: a run names a message that its conversation does not have")
    roles = np.full(len(messages), NO_ROLE, np.int8)
    roles[of_message] = meta.roles[position[of_message]]
    return roles


def _example_numbers(conversation: npt.NDArray[np.int32]) -> npt.NDArray[np.int16]:
    """0, 1, … within each conversation; examples come in conversation order."""
    if (np.diff(conversation) < 0).any():
        raise InternalError("rendered block: expected examples in the order of their conversations")
    numbers = np.arange(len(conversation)) - np.searchsorted(conversation, conversation)
    return numbers.astype(np.int16)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)

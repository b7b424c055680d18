"""Shards as Parquet in the form that Hugging Face trainers read."""

from __future__ import annotations

import os
from typing import Literal

import numpy as np
import pyarrow as pa

from renderers import InputError, OptionError

from .arrow_numpy import ArrowBatch, list_column, numbers
from .atomic import atomic_path
from .columns import BatchView
from .shards import ShardReader

__all__ = ["IGNORE_INDEX", "export_parquet"]

IGNORE_INDEX = -100
"""Label of a token that is not trained."""

_SCHEMA = pa.schema([
    pa.field("input_ids", pa.list_(pa.int32())),
    pa.field("labels", pa.list_(pa.int64())),
    pa.field("weights", pa.list_(pa.float32())),
    pa.field("source", pa.string()),
    pa.field("line", pa.int64()),
])  # fmt: skip


def export_parquet(
    path: str | os.PathLike[str],
    out: str | os.PathLike[str],
    columns: Literal["hf"] = "hf",
    split: str | None = "train",
) -> int:
    """Write one split as one Parquet file, a record batch at a time, and return its number of rows.

    Columns: `input_ids` int32, the full sequence (one token more than the model input); `labels` int64, aligned with
    `input_ids` and not shifted, -100 where the weight is 0; `weights` float32, aligned likewise, 0 for the first
    token; `source`; `line`.

    Args:
        path: finished shard folder.
        out: file to write, whole or not at all.
        columns: `hf`, the only layout.
        split: which split; None for all rows.

    Raises:
        OptionError: unknown `columns`.
        InputError: a row this form cannot hold: images, targets of several dimensions, no targets or no weights.
        UserError: not a finished shard folder.
    """
    if columns != "hf":
        raise OptionError(f"columns: expected hf; got {columns!r}")
    import pyarrow.parquet as pq

    with (
        ShardReader(path, split) as reader,
        atomic_path(out) as temporary,
        pq.ParquetWriter(temporary, _SCHEMA, compression="zstd") as writer,
    ):
        first_row = 0
        for view in reader.batches():
            writer.write_batch(_batch(view, first_row))
            first_row += view.num_rows
        return first_row


def _batch(view: BatchView, first_row: int) -> ArrowBatch:
    _refuse_what_cannot_be(view, first_row)
    tokens, targets, weights = (view.list_view(name) for name in ("tokens", "target_tokens", "weights"))
    offsets = tokens.offsets.astype(np.int64)
    full_offsets = offsets + np.arange(len(offsets))
    total = int(full_offsets[-1])
    # A row's full sequence is its model input and its last target; every token but the first is a target.
    is_input, is_target = np.ones(total, np.bool_), np.ones(total, np.bool_)
    is_input[full_offsets[1:] - 1] = False
    is_target[full_offsets[:-1]] = False
    input_ids = np.empty(total, np.int32)
    input_ids[~is_input] = targets.values[offsets[1:] - 1]
    input_ids[is_input] = tokens.values
    labels = np.full(total, IGNORE_INDEX, np.int64)
    labels[is_target] = np.where(weights.values != 0, targets.values, IGNORE_INDEX)
    full_weights = np.zeros(total, np.float32)
    full_weights[is_target] = weights.values
    return pa.RecordBatch.from_arrays(
        [
            list_column(numbers(input_ids), full_offsets),
            list_column(numbers(labels), full_offsets),
            list_column(numbers(full_weights), full_offsets),
            view.batch.column("source").cast(pa.string()),
            view.batch.column("line"),
        ],
        schema=_SCHEMA,
    )


def _refuse_what_cannot_be(view: BatchView, first_row: int) -> None:
    for name in ("target_tokens", "weights"):
        bad = np.flatnonzero(~view.one_dimensional(name))
        if len(bad):
            detail = "expected one value per token; got none or several"
            raise InputError(f"row {first_row + int(bad[0])}: {name}", "not_exportable", detail)
    if view.layout.images:
        for i in range(view.num_rows):
            if view.images(i):
                raise InputError(f"row {first_row + i}: images", "not_exportable", "expected text only; got an image")

"""Rows, rendered blocks and finished folders for the tests of storage and batching."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from datasets_io import (
    BlockMeta,
    Libraries,
    Manifest,
    Provenance,
    RendererInfo,
    Row,
    RowLayout,
    RunSpec,
    ShardInfo,
    ShardWriter,
    Totals,
    datum_to_row,
)
from renderers import Conversation, RenderedBlock, to_datum


def rows_of(lengths: Sequence[int], seed: int = 0, source: str = "a.jsonl") -> list[Row]:
    """One row per length (positions of the model input), tokens at random, the last half trained."""
    rng = np.random.default_rng(seed)
    rows = []
    for line, length in enumerate(lengths):
        tokens = rng.integers(0, 50_000, length + 1)
        weights = np.arange(length + 1) > length // 2
        datum = to_datum(tokens, weights)
        rows.append(datum_to_row(datum, Provenance(source=source, line=line, row_hash=line.to_bytes(16, "big"))))
    return rows


def run_spec(**changes: Any) -> RunSpec:
    spec = RunSpec(
        renderer=RendererInfo(name="chat_template"),
        tokenizer_sha256="aa",
        template_hash="bb",
        libraries=Libraries.installed(),
        inputs=[],
        options={"codec": None},
    )
    return spec.model_copy(update=changes)


def save_manifest(folder: Path, writers: Sequence[ShardWriter]) -> Manifest:
    shards = [shard for writer in writers for shard in writer.shards]
    rows = sum(shard.rows for shard in shards)
    tokens_histogram, trained_histogram = writers[0].tokens_histogram, writers[0].trained_histogram
    for writer in writers[1:]:
        tokens_histogram += writer.tokens_histogram
        trained_histogram += writer.trained_histogram
    manifest = Manifest(
        run=run_spec(),
        shards=shards,
        totals=Totals(
            read=rows,
            accepted=rows,
            rejected=0,
            rows=rows,
            tokens=sum(shard.tokens for shard in shards),
            trained_tokens=sum(shard.trained_tokens for shard in shards),
        ),
        tokens_histogram=tokens_histogram,
        trained_histogram=trained_histogram,
    )
    manifest.save(folder)
    return manifest


def write_folder(folder: Path, rows: Sequence[Row], **options: Any) -> Manifest:
    """A finished folder of one split."""
    folder.mkdir(exist_ok=True)
    options.setdefault("layout", RowLayout.of(rows))
    with ShardWriter(folder, **options) as writer:
        writer.write_rows(rows)
    return save_manifest(folder, [writer])


def rewrite_shard(path: Path, change: Any) -> None:
    """Write a shard again with `change(columns: dict)` applied to each record batch: damage that Arrow cannot see."""
    with pa.memory_map(str(path)) as source:
        reader = pa.ipc.open_file(source)
        batches = [reader.get_batch(i) for i in range(reader.num_record_batches)]
        changed = []
        for batch in batches:
            columns = dict(zip(batch.schema.names, batch.columns, strict=True))
            change(columns)
            changed.append(pa.RecordBatch.from_arrays(list(columns.values()), schema=reader.schema))
        data = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(emit_dictionary_deltas=True)
        with pa.ipc.new_file(data, reader.schema, options=options) as writer:
            for batch in changed:
                writer.write_batch(batch)
    path.write_bytes(data.getvalue())


def accept_shard(folder: Path, shard: ShardInfo, sha256: str, size: int) -> None:
    """Make the manifest agree with a shard's bytes again."""
    manifest = Manifest.load(folder)
    shards = [
        s.model_copy(update={"sha256": sha256, "size": size}) if s.file == shard.file else s for s in manifest.shards
    ]
    manifest.model_copy(update={"shards": shards}).save(folder)


def rendered_block(lengths: Sequence[Sequence[int]], seed: int = 0) -> tuple[RenderedBlock, BlockMeta]:
    """A block of conversations, each a list of example lengths; every third token from the second on is trained."""
    rng = np.random.default_rng(seed)
    sizes = [n for example_lengths in lengths for n in example_lengths]
    offsets = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    position = np.concatenate([np.arange(n) for n in sizes]) if sizes else np.zeros(0, np.int64)
    starts, messages, run_offsets = [], [], [0]
    for n in sizes:
        cuts = sorted({0, min(1, n - 1), n // 2}) if n else []
        starts += cuts
        messages += list(range(-1, len(cuts) - 1))
        run_offsets.append(len(starts))
    block = RenderedBlock(
        tokens=rng.integers(0, 50_000, int(offsets[-1])).astype(np.int32),
        weights=(position % 3 == 1).astype(np.float32),
        offsets=offsets,
        run_starts=np.array(starts, np.int32),
        run_messages=np.array(messages, np.int16),
        run_offsets=np.array(run_offsets, np.int64),
        conversation=np.repeat(np.arange(len(lengths)), [len(e) for e in lengths]).astype(np.int32),
        turn=np.full(len(sizes), -1, np.int16),
    )
    conversations = [
        Conversation([{"role": "user"}, {"role": "assistant"}], id=None if i % 2 else f"c{i}", metadata={"pair": i})
        for i in range(len(lengths))
    ]
    hashes = [i.to_bytes(16, "big") for i in range(len(lengths))]
    return block, BlockMeta.of(conversations, "a.jsonl", list(range(1, len(lengths) + 1)), hashes)

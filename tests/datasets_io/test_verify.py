from __future__ import annotations

import hashlib
from contextlib import suppress

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import Manifest, ShardReader, ShardWriter, block_to_batch, datum_to_row, verify_shards
from renderers import Datum, EncodedTextChunk, ImageChunk, InputError, ModelInput, UserError
from tests.datasets_io.shard_samples import (
    accept_shard,
    rendered_block,
    rewrite_shard,
    rows_of,
    save_manifest,
    write_folder,
)

SHARD = "train-00000.arrow"


@pytest.fixture
def folder(tmp_path):
    """Nine rows in two files of two record batches or more."""
    block, meta = rendered_block([[8, 5], [6], [9, 4, 7], [5, 5, 5]])
    with ShardWriter(tmp_path, batch_rows=2, max_tokens=30) as writer:
        writer.write(block_to_batch(block, meta).batch)
    save_manifest(tmp_path, [writer])
    assert len(writer.shards) == 2
    return tmp_path


def test_a_whole_folder_has_no_faults(folder):
    report = verify_shards(folder)
    manifest = Manifest.load(folder)
    assert (report.ok, report.faults) == (True, [])
    assert (report.shards, report.rows, report.tokens) == (2, manifest.totals.rows, manifest.totals.tokens)


def test_datums_of_any_kind_have_no_faults(tmp_path):
    datums = [
        Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3], "weights": [0.0, 1.0]}),
        Datum(ModelInput.from_ints([4, 4]), {"target_tokens": [[5, 6], [7, 8]], "weights": [[0.5, 0.5], [0.0, 0.0]]}),
        Datum(ModelInput.from_ints([4, 5]), {"logprobs": [-1.0, float("-inf")]}),
        Datum(
            ModelInput([EncodedTextChunk([1]), ImageChunk(b"", "png", 2, "a"), EncodedTextChunk([2])]),
            {"target_tokens": [0, 0, 2, 3], "weights": [0, 0, 1, 1]},
        ),
    ]
    write_folder(tmp_path, [datum_to_row(datum) for datum in datums])
    assert verify_shards(tmp_path).faults == []


def values_of(column):
    return np.array(column.values.to_numpy())


def put_values(columns, name, position, value):
    """Replace one number of a list column in each record batch."""
    column = columns[name]
    values = values_of(column)
    values[position] = value
    columns[name] = pa.ListArray.from_arrays(column.offsets, pa.array(values))


def put_number(columns, name, value):
    numbers = columns[name].to_pylist()
    columns[name] = pa.array([value, *numbers[1:]], columns[name].type)


def put_segments(columns, position, start):
    column = columns["segments"]
    starts = np.array(column.values.field("start").to_numpy())
    starts[position] = start
    parts = [pa.array(starts), column.values.field("message"), column.values.field("role")]
    runs = pa.StructArray.from_arrays(parts, fields=list(column.type.value_type))
    columns["segments"] = pa.ListArray.from_arrays(column.offsets, runs)


def shorten(columns, name):
    lists = columns[name].to_pylist()
    columns[name] = pa.array([lists[0][:-1], *lists[1:]], columns[name].type)


@pytest.mark.parametrize(
    ("change", "codes"),
    [
        (lambda c: put_values(c, "target_tokens", 1, 77), {"shift"}),
        (lambda c: put_values(c, "tokens", 1, 77), {"shift"}),
        (lambda c: put_values(c, "weights", 0, np.nan), {"not_finite"}),
        (lambda c: put_values(c, "weights", 0, 0), {"num_trained", "untrained"}),
        (lambda c: put_values(c, "weights", slice(None), 0), {"num_trained", "untrained"}),
        (lambda c: shorten(c, "weights"), {"length", "num_trained"}),
        (lambda c: shorten(c, "target_tokens"), {"length"}),
        (lambda c: put_number(c, "num_tokens", 99), {"num_tokens", "totals", "histogram"}),
        (lambda c: put_segments(c, 0, 1), {"segments"}),
        (lambda c: put_segments(c, 1, 0), {"segments"}),
        (lambda c: put_segments(c, 2, 99), {"segments"}),
    ],
)
def test_planted_faults_are_found_and_placed(folder, change, codes):
    rewrite_shard(folder / SHARD, change)
    assert {fault.code for fault in verify_shards(folder).faults} == {"hash", *codes}
    data = (folder / SHARD).read_bytes()
    accept_shard(folder, Manifest.load(folder).shards[0], hashlib.sha256(data).hexdigest(), len(data))
    report = verify_shards(folder)
    assert {fault.code for fault in report.faults} == codes
    assert {fault.shard for fault in report.faults} <= {SHARD, "manifest.json"}
    # The change is made in each record batch: the second one's rows count on from the first.
    assert {0, 2} <= {fault.row for fault in report.faults}


def test_an_image_with_tokens_is_found(tmp_path):
    datum = Datum(
        ModelInput([ImageChunk(b"", "png", 2, "a"), EncodedTextChunk([2])]),
        {"target_tokens": [0, 2, 3], "weights": [0, 1, 1]},
    )
    write_folder(tmp_path, [datum_to_row(datum)])
    rewrite_shard(tmp_path / SHARD, lambda c: put_values(c, "tokens", 0, 5))
    assert {fault.code for fault in verify_shards(tmp_path).faults} == {"hash", "image"}


def test_wrong_totals_are_found(folder):
    manifest = Manifest.load(folder)
    totals = manifest.totals.model_copy(update={"tokens": 1, "read": 99})
    manifest.model_copy(update={"totals": totals}).save(folder)
    details = [str(fault) for fault in verify_shards(folder).faults]
    tokens, rows = sum(shard.tokens for shard in manifest.shards), manifest.totals.accepted
    assert details == [
        f"manifest.json: totals.read: expected {rows}; got 99",
        f"manifest.json: totals.tokens: expected {tokens}; got 1",
    ]


def test_missing_truncated_and_stray_files_are_found(folder):
    (folder / SHARD).unlink()
    second = folder / "train-00001.arrow"
    second.write_bytes(second.read_bytes()[:-50])
    (folder / "train-00009.arrow").write_bytes(b"")
    faults = [(fault.shard, fault.code) for fault in verify_shards(folder).faults]
    assert faults == [
        (SHARD, "missing_file"),
        (second.name, "hash"),
        (second.name, "unreadable"),
        ("train-00009.arrow", "unlisted_file"),
    ]


@given(st.integers(0, 2**31), st.integers(1, 255))
@settings(derandomize=True, max_examples=80, deadline=None)
def test_any_flipped_byte_is_a_reported_fault_and_never_a_crash(flip_byte, position, flip):
    report = flip_byte(position, flip)
    assert ("hash", None) in {(fault.code, fault.row) for fault in report.faults}


@pytest.fixture(scope="module")
def flip_byte(tmp_path_factory):
    folder = tmp_path_factory.mktemp("flip")
    write_folder(folder, rows_of([3, 4, 5]))
    path = folder / SHARD
    data = path.read_bytes()
    return lambda position, flip: verify_flipped(path, data, position, flip)


def verify_flipped(path, data, position, flip):
    damaged = bytearray(data)
    damaged[position % len(data)] ^= flip
    path.write_bytes(damaged)
    # A reader checks structure and sizes only: it gives rows or a `UserError`.
    with suppress(UserError):
        list(ShardReader(path.parent))
    return verify_shards(path.parent)


def test_a_sample_is_rendered_again(folder):
    reader = ShardReader(folder)
    seen = []

    def rerender(row):
        seen.append((row.provenance.line, row.provenance.example))
        if row.provenance.line == 2:
            return None
        if row.provenance.line == 4:
            raise InputError("messages", "gone", "no such row")
        tokens = np.append(row.tokens, row.target_tokens[-1])
        weights = np.append(np.float32(0), row.weights)
        if row.provenance.line == 3 and row.provenance.example == 1:
            weights[-1] += 1
        return tokens, weights

    report = verify_shards(folder, rerender=rerender)
    assert len(seen) == len(reader)
    assert (report.rerendered, report.not_rerendered) == (5, 1)
    assert sorted({str(fault) for fault in report.faults if "train-00000" in fault.shard}) == [
        f"{SHARD}: row 4: weights: expected what rendering again gives"
    ]
    assert {fault.detail for fault in report.faults if "train-00001" in fault.shard} == {
        "rendering again: messages: no such row"
    }


def test_the_sample_is_spread_over_the_folder(folder):
    lines = []
    verify_shards(folder, rerender=lambda row: lines.append(row.provenance.line), sample=2)
    assert lines == [1, 4]


def test_without_a_manifest_there_is_nothing_to_verify(tmp_path):
    with pytest.raises(UserError, match=r"without manifest\.json"):
        verify_shards(tmp_path)

from __future__ import annotations

import hashlib
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import (
    Provenance,
    RowLayout,
    Segments,
    ShardReader,
    ShardWriter,
    datum_to_row,
    remove_leftovers,
    rows_to_batch,
)
from renderers import Datum, InputError, InternalError, ModelInput, OptionError, UserError
from tests.datasets_io.shard_samples import rows_of, save_manifest, write_folder


def files(folder):
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def many_rows():
    rng = np.random.default_rng(3)
    rows = rows_of(rng.integers(1, 30, 60).tolist(), source="a.jsonl") + rows_of([5] * 30, seed=1, source="b.jsonl")
    for row in rows[::3]:
        row.segments = Segments(np.array([0], np.int32), np.array([0], np.int16), np.array([3], np.int8))
    rows[7].provenance = Provenance(conversation_id="x", source="c.jsonl")
    return [rows[i] for i in rng.permutation(len(rows))]


ROWS = many_rows()
LIMITS = {"batch_rows": 8, "batch_tokens": 60, "max_tokens": 400}


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    folder = tmp_path_factory.mktemp("expected")
    with ShardWriter(folder, **LIMITS) as writer:
        for row in ROWS:
            writer.write_rows([row])
    return files(folder)


@given(st.lists(st.integers(0, len(ROWS)), max_size=6))
@settings(derandomize=True, max_examples=40, deadline=None)
def test_bytes_depend_on_the_rows_and_not_on_how_they_came(same_bytes, cuts):
    same_bytes(cuts)


@pytest.fixture(scope="module")
def same_bytes(expected, tmp_path_factory):
    return lambda cuts: check_same_bytes(expected, tmp_path_factory.mktemp("again"), cuts)


def check_same_bytes(expected, folder, cuts):
    edges = [0, *sorted(cuts), len(ROWS)]
    whole = rows_to_batch(ROWS)
    with ShardWriter(folder, **LIMITS) as writer:
        for start, stop in pairwise(edges):
            writer.write(whole.slice(start, stop - start))
    assert files(folder) == expected


def test_a_writer_that_starts_at_a_later_shard_goes_on_with_the_same_bytes(expected, tmp_path):
    with ShardWriter(tmp_path, **LIMITS) as writer:
        writer.write_rows(ROWS)
    first = writer.shards[0]
    again = tmp_path / "again"
    again.mkdir()
    with ShardWriter(again, **LIMITS, first_shard=1) as second:
        second.write_rows(ROWS[first.rows :])
    assert len(expected) > 2
    assert files(again) == {name: data for name, data in expected.items() if name != first.file}


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
def test_shard_infos_describe_the_files(tmp_path, codec):
    with ShardWriter(tmp_path, **LIMITS, codec=codec) as writer:
        writer.write_rows(ROWS)
    assert sum(shard.rows for shard in writer.shards) == len(ROWS)
    for shard in writer.shards:
        data = (tmp_path / shard.file).read_bytes()
        assert (hashlib.sha256(data).hexdigest(), len(data)) == (shard.sha256, shard.size)
        table = pa.ipc.open_file(data).read_all()
        assert table.num_rows == shard.rows
        assert sum(len(row) for row in table["tokens"]) == shard.tokens
        assert sum(table["num_trained"].to_pylist()) == shard.trained_tokens
        assert shard.codec == codec


@pytest.mark.parametrize("codec", [None, "zstd", "lz4"])
def test_every_codec_gives_the_rows_back(tmp_path, codec):
    write_folder(tmp_path, ROWS, **LIMITS, codec=codec)
    with ShardReader(tmp_path) as reader:
        assert [reader.row(i).provenance for i in range(len(reader))] == [row.provenance for row in ROWS]
        for i, row in enumerate(ROWS):
            assert reader.tokens(i).tolist() == row.tokens.tolist()


def test_batches_and_files_are_bounded(tmp_path):
    with ShardWriter(tmp_path, **LIMITS) as writer:
        writer.write_rows(ROWS)
    longest = max(row.num_tokens for row in ROWS)
    for shard in writer.shards:
        assert shard.tokens < LIMITS["max_tokens"] + LIMITS["batch_tokens"] + longest
        reader = pa.ipc.open_file((tmp_path / shard.file).read_bytes())
        for i in range(reader.num_record_batches):
            lengths = reader.get_batch(i)["num_tokens"].to_pylist()
            assert len(lengths) <= LIMITS["batch_rows"]
            assert sum(lengths[:-1]) < LIMITS["batch_tokens"]


def test_roll_starts_another_file(tmp_path):
    with ShardWriter(tmp_path, split="eval") as writer:
        writer.roll()
        writer.write_rows(ROWS[:3])
        writer.roll()
        writer.roll()
        writer.write_rows(ROWS[3:5])
    assert [(shard.file, shard.rows, shard.split) for shard in writer.shards] == [
        ("eval-00000.arrow", 3, "eval"),
        ("eval-00001.arrow", 2, "eval"),
    ]


def test_no_rows_no_file(tmp_path):
    with ShardWriter(tmp_path) as writer:
        writer.write_rows([])
    assert writer.shards == []
    assert files(tmp_path) == {}


def test_an_error_leaves_finished_files_only(tmp_path):
    def write_and_fail():
        with ShardWriter(tmp_path, **LIMITS) as writer:
            writer.write_rows(ROWS)
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        write_and_fail()
    names = set(files(tmp_path))
    assert names
    assert not any(name.startswith(".tmp-") for name in names)
    assert sum(pa.ipc.open_file(data).read_all().num_rows for data in files(tmp_path).values()) < len(ROWS)


def test_the_open_file_is_a_temporary_one(tmp_path):
    writer = ShardWriter(tmp_path, batch_rows=1)
    writer.write_rows(ROWS[:2])
    (name,) = files(tmp_path)
    assert name.startswith(".tmp-")
    assert name.endswith("train-00000.arrow")
    assert [path.name for path in remove_leftovers(tmp_path)] == [name]
    writer._file._stack.pop_all()  # as if the process had died


def test_columns_of_another_layout_are_refused(tmp_path):
    row = datum_to_row(Datum(ModelInput.from_ints([1]), {"advantages": [1.0]}))
    with ShardWriter(tmp_path) as writer:
        with pytest.raises(InputError, match=r"advantages: expected one of none; got float32"):
            writer.write_rows([row])
        with pytest.raises(InternalError, match="expected schema"):
            writer.write(rows_to_batch([row]))
    with ShardWriter(tmp_path, layout=RowLayout.of([row])) as writer:
        writer.write_rows([row])
    assert writer.shards[0].rows == 1


def test_impossible_options_are_refused(tmp_path):
    with pytest.raises(OptionError, match="codec: expected one of lz4, zstd or none; got 'gzip'"):
        ShardWriter(tmp_path, codec="gzip")
    with pytest.raises(OptionError, match="expected at least 1"):
        ShardWriter(tmp_path, batch_rows=0)
    with pytest.raises(UserError, match="expected an existing folder"):
        ShardWriter(tmp_path / "none")


def test_histograms_count_every_row(tmp_path):
    with ShardWriter(tmp_path, **LIMITS) as writer:
        writer.write_rows(ROWS)
    manifest = save_manifest(tmp_path, [writer])
    for histogram, lengths in (
        (manifest.tokens_histogram, [row.num_tokens for row in ROWS]),
        (manifest.trained_histogram, [row.num_trained for row in ROWS]),
    ):
        edges = [*histogram.edges, float("inf")]
        bins = [sum(low <= n < high for n in lengths) for low, high in pairwise(edges)]
        assert histogram.counts == bins

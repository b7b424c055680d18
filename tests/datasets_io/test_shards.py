from __future__ import annotations

import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from datasets_io import ShardReader, ShardWriter, row_to_datum
from renderers import OptionError, UserError
from tests.datasets_io.shard_samples import rows_of, save_manifest, write_folder

LENGTHS = np.random.default_rng(0).integers(1, 40, 100).tolist()
ROWS = rows_of(LENGTHS)
LIMITS = {"batch_rows": 16, "max_tokens": 600}


@pytest.fixture(scope="module", params=[None, "zstd"])
def folder(tmp_path_factory, request):
    path = tmp_path_factory.mktemp("shards")
    write_folder(path, ROWS, **LIMITS, codec=request.param)
    return path


@pytest.fixture
def reader(folder):
    with ShardReader(folder) as reader:
        yield reader


def test_it_is_a_sequence_of_datums(reader):
    expected = [row_to_datum(row) for row in ROWS]
    assert len(reader.manifest.shards) > 2
    assert len(reader) == len(ROWS)
    assert list(reader) == expected
    assert reader[-1] == expected[-1]
    assert reader[3:80:7] == expected[3:80:7]
    assert reader[::-1] == expected[::-1]


@pytest.mark.parametrize("index", [len(ROWS), -len(ROWS) - 1])
def test_rows_that_do_not_exist_are_index_errors(reader, index):
    with pytest.raises(IndexError, match=f"row {index} of {len(ROWS)}"):
        reader[index]


def test_lengths_and_trained_counts_are_arrays(reader):
    assert reader.lengths.tolist() == LENGTHS
    assert reader.num_trained.tolist() == [row.num_trained for row in ROWS]


def test_lengths_do_not_touch_tokens(tmp_path):
    write_folder(tmp_path, ROWS, codec="zstd", batch_rows=len(ROWS))
    reader = ShardReader(tmp_path)
    assert reader.lengths.sum() == sum(LENGTHS)
    assert not reader._views, "no record batch was read"


def test_token_arrays_are_the_mapped_file_itself(tmp_path):
    write_folder(tmp_path, ROWS, **LIMITS)
    reader = ShardReader(tmp_path)
    row = reader.row(17)
    column = reader._view(1).batch.column("tokens").values.buffers()[1]
    data = np.frombuffer(column, np.int32)
    assert np.shares_memory(reader.tokens(17), data)
    assert np.shares_memory(row.tokens, data)
    assert np.shares_memory(reader[17].model_input.to_numpy(), data)
    assert not row.tokens.flags.writeable
    mapped = [line.split()[0] for line in Path("/proc/self/maps").read_text().splitlines() if str(tmp_path) in line]
    address = row.weights.__array_interface__["data"][0]
    assert any(int(low, 16) <= address < int(high, 16) for low, high in (span.split("-") for span in mapped))


def test_arrays_outlive_the_reader(folder):
    with ShardReader(folder) as reader:
        tokens = reader.tokens(5)
    assert tokens.tolist() == ROWS[5].tokens.tolist()
    with pytest.raises(ValueError, match="closed"):
        reader.tokens(5)


@pytest.mark.parametrize("world", [1, 3, 7])
def test_rank_views_hold_every_row_once(reader, world):
    views = [reader.rank_view(rank, world) for rank in range(world)]
    assert sorted(i for view in views for i in view.rows) == list(range(len(ROWS)))
    assert max(map(len, views)) - min(map(len, views)) <= 1
    for view in views:
        assert list(view) == [reader[i] for i in view.rows]
        assert view[:2] == [view[0], view[1]]
        assert view.lengths.tolist() == reader.lengths[list(view.rows)].tolist()


@pytest.mark.parametrize(("rank", "world"), [(-1, 2), (2, 2), (0, 0)])
def test_impossible_ranks_are_refused(reader, rank, world):
    with pytest.raises(OptionError, match=f"got rank {rank}, world {world}"):
        reader.rank_view(rank, world)


def test_it_pickles_as_its_path(folder):
    reader = ShardReader(folder)
    data = pickle.dumps(reader)
    assert len(data) < 1000
    again = pickle.loads(data)
    assert (again.path, again.split, list(again)) == (reader.path, reader.split, list(reader))


def test_threads_read_the_same(folder):
    reader = ShardReader(folder)
    rows = np.random.default_rng(1).permutation(np.tile(np.arange(len(ROWS)), 8)).tolist()
    with ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda i: reader[i], rows))
    expected = [row_to_datum(row) for row in ROWS]
    assert read == [expected[i] for i in rows]


def test_sources_are_told_without_reading_rows(tmp_path):
    write_folder(tmp_path, rows_of([3] * 5, source="b") + rows_of([3] * 20, source="a"), batch_rows=4)
    reader = ShardReader(tmp_path)
    assert reader.sources == ["b", "a"]
    assert [reader.row(i).provenance.source for i in (4, 5)] == ["b", "a"]


def test_splits_are_read_apart_or_together(tmp_path):
    with ShardWriter(tmp_path) as train, ShardWriter(tmp_path, split="eval") as evaluation:
        train.write_rows(ROWS[:7])
        evaluation.write_rows(ROWS[7:9])
    save_manifest(tmp_path, [train, evaluation])
    assert [len(ShardReader(tmp_path, split)) for split in ("train", "eval", None)] == [7, 2, 9]
    with pytest.raises(UserError, match="expected a split among eval, train; got 'test'"):
        ShardReader(tmp_path, "test")


def damaged(tmp_path, change):
    write_folder(tmp_path, ROWS)
    change(tmp_path / "train-00000.arrow")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda path: path.unlink(), "expected a shard file, as the manifest says"),
        (lambda path: path.write_bytes(path.read_bytes()[:-100]), r"expected \d+ bytes, as the manifest says; got \d+"),
        (lambda path: path.write_bytes(b"x" * path.stat().st_size), "expected a whole Arrow IPC file"),
        (lambda path: path.write_bytes(path.read_bytes()[:-20] + b"\0" * 20), "expected a whole Arrow IPC file"),
    ],
)
def test_damaged_files_are_named(tmp_path, change, message):
    with pytest.raises(UserError, match=r"train-00000\.arrow: " + message):
        ShardReader(damaged(tmp_path, change))


def test_unfinished_folders_are_refused(tmp_path):
    with pytest.raises(UserError, match=r"without manifest\.json"):
        ShardReader(tmp_path)
    with pytest.raises(UserError, match="there is none"):
        ShardReader(tmp_path / "none")


def test_datasets_reads_the_files(folder, tmp_path):
    datasets = pytest.importorskip("datasets")
    files = sorted(str(path) for path in folder.glob("*.arrow"))
    loaded = datasets.load_dataset("arrow", data_files=files, split="train", cache_dir=str(tmp_path))
    assert len(loaded) == len(ROWS)
    for i in (0, 50, 99):
        assert loaded[i]["tokens"] == ROWS[i].tokens.tolist()
        assert loaded[i]["weights"] == ROWS[i].weights.tolist()
        assert loaded[i]["source"] == "a.jsonl"
        assert loaded[i]["line"] == ROWS[i].provenance.line


def test_neither_writing_nor_reading_imports_pandas(tmp_path, repository):
    program = """
import sys
from pathlib import Path
from datasets_io import ShardReader, ShardWriter, block_to_batch, iter_batches
from tests.datasets_io.shard_samples import rendered_block, save_manifest
folder = Path(sys.argv[1])
with ShardWriter(folder) as writer:
    writer.write(block_to_batch(*rendered_block([[5, 6], [1], [7]])).batch)
save_manifest(folder, [writer])
reader = ShardReader(folder)
batches = list(iter_batches(reader, seed=0, epoch=0, batch_size=2))
print(len(batches[0].datums()), reader.row(0).num_tokens, reader.sources, "pandas" in sys.modules)
"""
    command = [sys.executable, "-c", program, str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True, check=True, cwd=repository)
    assert run.stdout == "2 4 ['a.jsonl'] False\n"

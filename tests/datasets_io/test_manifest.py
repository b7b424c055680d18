from __future__ import annotations

import json

import numpy as np
import pytest

from datasets_io import (
    LENGTH_BIN_EDGES,
    Histogram,
    InputFile,
    Manifest,
    RendererInfo,
    ShardReader,
    explain_difference,
)
from renderers import UserError
from tests.datasets_io.shard_samples import rows_of, run_spec, write_folder


@pytest.fixture
def folder(tmp_path):
    write_folder(tmp_path, rows_of([3, 4]))
    return tmp_path


def test_it_round_trips(folder):
    manifest = Manifest.load(folder)
    before = (folder / "manifest.json").read_bytes()
    manifest.save(folder)
    assert (folder / "manifest.json").read_bytes() == before
    assert Manifest.load(folder) == manifest


def change(folder, *keys, value):
    path = folder / "manifest.json"
    data = json.loads(path.read_bytes())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = value
    path.write_text(json.dumps(data))


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("run", "format_version"), 2, r"run\.format_version: expected 1; got 2"),
        (("run",), None, r"run\.format_version: expected 1; got None"),
        (("surprise",), 1, "surprise: Extra inputs are not permitted; got 1"),
        (("shards", 0, "rows"), -1, r"shards\.0\.rows: .* greater than or equal to 0; got -1"),
        (("totals", "read"), "many", r"totals\.read: .* got 'many'"),
    ],
)
def test_faults_are_placed(folder, keys, value, message):
    change(folder, *keys, value=value)
    with pytest.raises(UserError, match=r"manifest\.json: " + message):
        ShardReader(folder)


def test_what_is_not_json_is_refused(folder):
    (folder / "manifest.json").write_text("{")
    with pytest.raises(UserError, match=r"manifest\.json: expected JSON"):
        Manifest.load(folder)


def file(path="a.jsonl", sha256="11"):
    return InputFile(path=path, size=10, sha256=sha256)


@pytest.mark.parametrize(
    ("changes", "lines"),
    [
        ({"template_hash": "def"}, ["template_hash: bb -> def"]),
        ({"tokenizer_sha256": "cc"}, ["tokenizer_sha256: aa -> cc"]),
        ({"options": {"codec": "zstd"}}, ["options.codec: None -> zstd"]),
        ({"options": {"codec": None, "dedup": True}}, ["options.dedup: none -> True"]),
        ({"renderer": RendererInfo(name="qwen3")}, ["renderer.name: chat_template -> qwen3"]),
        ({"inputs": [file(sha256="22")]}, ["inputs[0].sha256: 11 -> 22"]),
        (
            {"inputs": [file(), file("b")]},
            [f"inputs[1].{k}: none -> {v}" for k, v in (("path", "b"), ("size", 10), ("sha256", 11))],
        ),
    ],
)
def test_differences_are_named_and_change_the_fingerprint(changes, lines):
    old = run_spec(inputs=[file()])
    new = old.model_copy(update=changes)
    assert explain_difference(old, new) == lines
    assert old.fingerprint != new.fingerprint


def test_versions_that_change_nothing_do_not_count():
    old = run_spec()
    libraries = old.libraries.model_copy(update={"numpy": "0", "python": "0"})
    assert run_spec(libraries=libraries).fingerprint == old.fingerprint
    assert explain_difference(old, run_spec(libraries=libraries)) == []
    assert run_spec(libraries=old.libraries.model_copy(update={"tokenizers": "0"})).fingerprint != old.fingerprint


def test_the_order_of_options_does_not_count():
    one, other = run_spec(options={"a": 1, "b": 2}), run_spec(options={"b": 2, "a": 1})
    assert one.fingerprint == other.fingerprint


def test_bins_are_powers_of_two_and_their_middles():
    assert LENGTH_BIN_EDGES[:9] == (0, 1, 16, 32, 48, 64, 96, 128, 192)
    assert LENGTH_BIN_EDGES[-3:] == (2**20, 3 * 2**19, 2**21)
    assert list(LENGTH_BIN_EDGES) == sorted(set(LENGTH_BIN_EDGES))


def test_histograms_add_up():
    lengths = np.array([0, 1, 15, 16, 31, 32, 2**21 - 1, 2**21, 2**24])
    histogram = Histogram.of(lengths)
    assert histogram.counts[:4] == [1, 2, 2, 1]
    assert histogram.counts[-2:] == [1, 2]
    assert (histogram + histogram).counts == [2 * n for n in histogram.counts]

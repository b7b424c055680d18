"""What may be named as an input."""

from __future__ import annotations

import hashlib
import io
import json
import os
import sys
import threading
from pathlib import Path

import pytest

from datasets_io import expand_inputs, input_fingerprint, iter_blocks, parse_block
from renderers import InternalError, MissingExtraError, UserError

ROW = {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
LINE = json.dumps(ROW) + "\n"


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(LINE)


def test_globs_and_folders_are_sorted_and_files_keep_the_order_given(tmp_path: Path) -> None:
    touch(tmp_path, "b.jsonl", "a.jsonl", "sub/c.json", "notes.txt", "sub/d.jsonl.gz", "x.parquet.gz")
    names = [Path(s.name).name for s in expand_inputs([str(tmp_path / "b.jsonl"), str(tmp_path / "sub/*")])]
    assert names == ["b.jsonl", "c.json", "d.jsonl.gz"]
    folder = expand_inputs([str(tmp_path)])
    assert [Path(s.name).name for s in folder] == ["a.jsonl", "b.jsonl", "c.json", "d.jsonl.gz"]
    assert [Path(s.name).name for s in expand_inputs([str(tmp_path / "**/*.json*")])] == [
        "a.jsonl",
        "b.jsonl",
        "c.json",
        "d.jsonl.gz",
    ]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    touch(tmp_path, "a[1].jsonl", "a1.jsonl")
    assert [Path(s.name).name for s in expand_inputs([str(tmp_path / "a[1].jsonl")])] == ["a[1].jsonl"]


@pytest.mark.parametrize(
    ("inputs", "message"),
    [
        ([], "expected at least one file"),
        (["nothing.jsonl"], r"nothing\.jsonl: expected a file that exists"),
        (["org/name"], r"a dataset on the Hub is written hf:org/name"),
        (["*.nothing"], r"\*\.nothing: expected a glob that matches files; got no match"),
        (["a.txt"], r"a\.txt: expected a file name ending in \.json"),
        (["a.parquet.gz"], r"a\.parquet\.gz: expected a file name ending in"),
        (["a.jsonl", "./a.jsonl"], r"expected every input once; got \./a\.jsonl twice"),
        (["-", "-"], "expected every input once; got - twice"),
    ],
)
def test_what_cannot_be_an_input_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inputs: list[str], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    touch(tmp_path, "a.jsonl", "a.txt", "a.parquet.gz")
    with pytest.raises(UserError, match=message):
        expand_inputs(inputs)


@pytest.mark.parametrize("name", ["a.parquet", "a.arrow", "a.feather"])
def test_a_table_that_is_none_is_refused(tmp_path: Path, name: str) -> None:
    touch(tmp_path, name)
    with pytest.raises(UserError, match=rf"{name}: expected a"):
        list(iter_blocks(expand_inputs([str(tmp_path / name)])))


def test_fingerprint_of_a_file(tmp_path: Path) -> None:
    touch(tmp_path, "a.jsonl")
    (source,) = expand_inputs([str(tmp_path / "a.jsonl")])
    expected = {"path": source.name, "size": len(LINE), "sha256": hashlib.sha256(LINE.encode()).hexdigest()}
    assert input_fingerprint(source) == expected
    list(iter_blocks([source]))
    assert input_fingerprint(source) == expected


@pytest.mark.parametrize("text", [LINE * 3, json.dumps([ROW] * 3, indent=1), "\n \n" + json.dumps([ROW] * 3)])
def test_standard_input_is_detected_and_hashed_while_read(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    (source,) = expand_inputs(["-"])
    with pytest.raises(InternalError, match="only after it was read"):
        input_fingerprint(source)
    rows = [row for block in iter_blocks([source], 50) for row in parse_block(block).rows]
    assert [row.conversations[0].messages for row in rows] == [ROW["messages"]] * 3
    assert input_fingerprint(source) == {
        "path": "-",
        "size": len(text),
        "sha256": hashlib.sha256(text.encode()).hexdigest(),
    }


def test_a_named_pipe_is_read_like_standard_input(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_text(LINE * 2))
    writer.start()
    (source,) = expand_inputs([str(pipe)])
    rows = [row for block in iter_blocks([source]) for row in parse_block(block).rows]
    writer.join()
    assert len(rows) == 2
    assert input_fingerprint(source)["size"] == 2 * len(LINE)


def test_a_missing_datasets_library_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"datumloom\[data\]"):
        list(iter_blocks(expand_inputs(["hf:org/name"])))


@pytest.fixture
def dataset_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    datasets = pytest.importorskip("datasets", reason="datasets comes with the extra data")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "set"
    for split, num_rows in (("train", 3), ("test", 2)):
        touch(folder, f"{split}.jsonl")
        (folder / f"{split}.jsonl").write_text(LINE * num_rows)
    return folder


def test_a_dataset_by_its_id_and_split(dataset_folder: Path) -> None:
    (source,) = expand_inputs([f"hf:{dataset_folder}:test"])
    rows = [row for block in iter_blocks([source]) for row in parse_block(block).rows]
    assert [row.conversations[0].messages for row in rows] == [ROW["messages"]] * 2
    assert [(row.line, row.offset) for row in rows] == [(1, -1), (2, -1)]
    while_reading = input_fingerprint(source)
    (again,) = expand_inputs([f"hf:{dataset_folder}:test"])
    assert input_fingerprint(again) == while_reading


def test_splits_are_never_guessed(dataset_folder: Path) -> None:
    with pytest.raises(UserError, match=r"expected one split to be named.*got train, test"):
        list(iter_blocks(expand_inputs([f"hf:{dataset_folder}"])))
    with pytest.raises(UserError, match="expected one of the splits train, test; got 'dev'"):
        list(iter_blocks(expand_inputs([f"hf:{dataset_folder}:default:dev"])))
    with pytest.raises(UserError, match=r"expected hf:org/name\[:config\]\[:split\]"):
        list(iter_blocks(expand_inputs(["hf:a/b:c:d:e"])))


def test_a_dataset_saved_to_disk(dataset_folder: Path, tmp_path: Path) -> None:
    import datasets

    saved = tmp_path / "saved"
    datasets.Dataset.from_list([ROW] * 4).save_to_disk(str(saved))
    rows = [row for block in iter_blocks(expand_inputs([str(saved)])) for row in parse_block(block).rows]
    assert len(rows) == 4

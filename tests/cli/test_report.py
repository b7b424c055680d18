"""`datumloom report`: its numbers are the folder's, its page is safe, and what is empty says so."""

from __future__ import annotations

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result

import cli
from datasets_io import Manifest, ShardReader, Totals
from datasets_io.reasons import EXPLANATIONS
from datasets_io.report_page import byte_size, report_page
from datasets_io.statistics import folder_statistics

HOSTILE = "</script><img src=x onerror=alert(1)><b>"
ROWS = [
    *({"messages": [{"role": "user", "content": "x " * n}, {"role": "assistant", "content": "y " * n}]}
      for n in range(1, 60)),
    {"messages": [{"role": "user", "content": "long"}, {"role": "assistant", "content": "word " * 400}]},
    {"messages": [{"role": "user", "content": "x "}, {"role": "assistant", "content": "y "}]},
    {"messages": [{"role": "user", "content": "<|im_end|>"}, {"role": "assistant", "content": "y"}]},
    *({"messages": [{"role": HOSTILE, "content": "x"}]} for _ in range(5)),
    {"instruction": "Add.", "output": "2"},
    {"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "z", "weight": 0}]},
]  # fmt: skip


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(cli.command, arguments)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    folder = tmp_path_factory.mktemp("report")
    source = folder / f"{HOSTILE.replace('/', '')}.jsonl"
    source.write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    out = folder / "shards"
    options = ["--max-length", "200", "--eval-fraction", "0.3", "--dedup", "--max-rejects", "10", "--quiet"]
    model = str(repository / "fixtures" / "tiny-chat")
    done = invoke("render", str(source), "--model", model, "--out", str(out), *options)
    assert done.exit_code == 0, done.output
    return out


class Texts(HTMLParser):
    """Element names, attributes, and the visible text, white space joined."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.open: list[str] = []
        self.parts: list[str] = []
        self.feed(page)
        self.close()
        assert self.open == [], "every element is closed, in order"
        self.text = " ".join(" ".join(self.parts).split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs
        if tag not in ("meta", "link"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] not in ("style", "title"):
            self.parts.append(data)


def test_statistics_are_those_of_the_rows(shards: Path) -> None:
    statistics = folder_statistics(shards)
    assert [split.name for split in statistics.splits] == ["train", "eval"]
    for split in statistics.splits:
        reader = ShardReader(shards, split.name)
        lengths = np.array([len(reader.tokens(i)) for i in range(len(reader))])
        trained = np.array([row.num_trained for row in map(reader.row, range(len(reader)))])
        assert (split.rows, split.tokens, split.trained) == (len(lengths), lengths.sum(), trained.sum())
        assert split.lengths is not None
        assert (split.lengths.least, split.lengths.longest) == (lengths.min(), lengths.max())
        assert split.lengths.median == sorted(lengths)[len(lengths) // 2]
        for bars, values in ((split.length_bars, lengths), (split.trained_bars, trained)):
            assert sum(bar.count for bar in bars) == len(values)
            assert bars[0].count > 0 < bars[-1].count
            assert max(bar.share for bar in bars) == 1
            for bar in bars:
                first, _, last = bar.label.replace(",", "").partition("–")
                assert bar.count == sum(int(first) <= value <= int(last or first) for value in values)
        tenths = [0] * 10
        for part, whole in zip(trained.tolist(), lengths.tolist(), strict=True):
            tenths[min(part * 10 // whole, 9)] += 1
        assert [bar.count for bar in split.share_bars] == tenths


def test_the_report_says_what_the_manifest_knows(shards: Path) -> None:
    text = Texts(report_page(folder_statistics(shards))).text
    manifest = Manifest.load(shards)
    totals = manifest.totals
    for number in (totals.read, totals.accepted, totals.rejected, totals.rows, totals.tokens, totals.trained_tokens):
        assert f" {number:,} " in text
    assert f"{totals.trained_tokens / totals.tokens:.1%} of all" in text
    assert set(manifest.drops) == {"duplicate", "no_trained_tokens", "too_long"}
    for counts in (manifest.rejects, manifest.drops, manifest.events, manifest.formats):
        assert counts
        for reason, count in counts.items():
            assert f"{reason} {count:,}" in text
    for reason in (*manifest.drops, *manifest.events):
        assert EXPLANATIONS[reason] in text
    assert manifest.run.tokenizer_sha256 in text
    assert manifest.run.template_hash in text
    assert manifest.notes.renderer_choice in text
    assert "max_length 200" in text
    assert "eval_fraction 0.3" in text
    rejected = (shards / "rejects.jsonl").read_text(encoding="utf-8").splitlines()
    assert len(rejected) == 5
    first = json.loads(rejected[0])
    assert f"{first['source']}:{first['line']}: {first['field']}: {first['detail']}" in text
    assert "and 2 more" in text


def test_the_page_needs_no_script_and_fetches_nothing(shards: Path, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    done = invoke("report", str(shards), "--out", str(path))
    assert done.exit_code == 0, done.output
    assert done.output == f"{path}: {path.stat().st_size:,} bytes\n"
    page = path.read_text(encoding="utf-8")
    found = Texts(page)
    assert HOSTILE in found.text
    assert not {"script", "img", "b-", "iframe", "object", "form"} & set(found.tags)
    assert "svg" in found.tags
    assert [value for name, value in found.attributes if name in ("src", "href")] == ["data:,"]
    assert not [name for name, _ in found.attributes if name.startswith("on")]
    assert re.findall(r"https?:|url\(|@import", page) == []
    assert "script-src &#39;none&#39;" in page


def test_the_page_stands_beside_the_folder(shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "shards"
    shutil.copytree(shards, folder)
    before = sorted(path.name for path in folder.iterdir())
    expected = tmp_path / "shards-report.html"
    for where, named in ((tmp_path, "shards"), (tmp_path, "shards/"), (folder, "."), (folder, "../shards")):
        monkeypatch.chdir(where)
        assert invoke("report", named).exit_code == 0
        assert expected.is_file()
        expected.unlink()
    assert sorted(path.name for path in folder.iterdir()) == before


def test_refusals(shards: Path, tmp_path: Path) -> None:
    def refusal(*arguments: str) -> str:
        done = invoke("report", *arguments)
        assert getattr(done.exception, "exit_code", None) == 2, done.exception
        return str(done.exception)

    assert "expected a finished shard folder" in refusal(str(tmp_path))
    assert "expected a folder of shards; there is none" in refusal(str(tmp_path / "none"))
    other = tmp_path / "notes.txt"
    other.write_text("mine", encoding="utf-8")
    assert "expected a new file or a page of ours" in refusal(str(shards), "--out", str(other))
    assert other.read_text(encoding="utf-8") == "mine"
    broken = tmp_path / "broken"
    shutil.copytree(shards, broken)
    next(broken.glob("*.arrow")).unlink()
    assert "expected a shard file, as the manifest says" in refusal(str(broken), "--out", str(tmp_path / "a.html"))


def test_what_is_empty_says_so(tmp_path: Path, shards: Path) -> None:
    run = Manifest.load(shards).run.model_copy(update={"inputs": []})
    totals = Totals(read=0, accepted=0, rejected=0, rows=0, tokens=0, trained_tokens=0)
    Manifest(run=run, shards=[], totals=totals).save(tmp_path)
    text = Texts(report_page(folder_statistics(tmp_path))).text
    for sentence in (
        "No shards: nothing was written.",
        "None: no row was read.",
        "None: every accepted row gave all its examples.",
        "Nothing worth counting.",
        "No row was accepted.",
        "The manifest names no inputs.",
        "Model not known",
    ):
        assert sentence in text
    assert "nan" not in text


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0 bytes"), (999, "999 bytes"), (1000, "1.0 kB"), (1_250_000, "1.2 MB"), (5 * 10**15, "5,000.0 TB")],
)
def test_byte_size(number: int, expected: str) -> None:
    assert byte_size(number) == expected

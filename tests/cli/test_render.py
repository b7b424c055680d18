"""`render-jsonl`, `verify` and `export` as a user meets them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from datasets_io import Manifest, ShardReader, build_shards
from datasets_io.commands import render, verify
from tests.datasets_io.build_samples import CONVERSATIONS, MODEL, ROOT, chat, lines_of, spec_of, words, write_rows
from trainer.commands import export

GOOD = str(CONVERSATIONS / "sharegpt.jsonl")
BAD = str(CONVERSATIONS / "bad.jsonl")


def run(*arguments: object, command=render.command) -> Result:
    """In this process; an error of ours is raised."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments])
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def start(*arguments: object, entry: str = "render_jsonl", **options) -> subprocess.CompletedProcess:
    """As a program of its own."""
    code = f"import sys; sys.argv[0] = 'render-jsonl'; import cli; cli.{entry}()"
    command = [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, cwd=ROOT, check=False, **options)


def test_the_summary_says_what_became_of_every_row(tmp_path) -> None:
    done = start(GOOD, BAD, "--model", MODEL, "--out", tmp_path / "out", "--eval-fraction", "0.2", "--turns", "drop")
    text, errors = done.stdout.decode(), done.stderr.decode()
    assert done.returncode == 3
    assert "read 108 = accepted 48 + rejected 60" in text
    assert "sharegpt 32, sharegpt_pairs 8, sharegpt_roles 8" in text
    assert "chat_template: no family reproduces" in text
    assert f"{BAD}:18: messages[0].role: expected one of system" in text
    assert text.count("unknown_role") == 1
    assert errors.splitlines()[-1].startswith("error: rejects: expected at most 0 among 108 rows; got 60")
    assert "Traceback" not in errors
    manifest = Manifest.load(tmp_path / "out")
    assert manifest.splits == ["eval", "train"]
    assert manifest.run.renderer.settings["turns"] == "drop"


def test_json_for_machines(tmp_path) -> None:
    result = run(GOOD, BAD, "--model", MODEL, "--out", tmp_path / "out", "--max-rejects", "60", "--json", "--quiet")
    value = json.loads(result.stdout)
    assert value["totals"]["read"] == value["totals"]["accepted"] + value["totals"]["rejected"] == 108
    assert value["unchanged"] is False
    assert value["first_rejects"]["unknown_role"][0].startswith(f"{BAD}:18: messages[0].role")
    assert value["splits"]["train"]["examples"] == value["totals"]["rows"]
    assert value["notes"]["encoder"] in ("fastokens", "tokenizers")
    again = json.loads(
        run(GOOD, BAD, "--model", MODEL, "--out", tmp_path / "out", "--max-rejects", "60", "--json", "--quiet").stdout
    )
    assert again["unchanged"] is True
    assert {name: again[name] for name in ("totals", "rejects", "first_rejects")} == {
        name: value[name] for name in ("totals", "rejects", "first_rejects")
    }


def test_the_command_is_the_function(tmp_path) -> None:
    path = write_rows(tmp_path / "rows.jsonl", [chat(words(i), words(i)) for i in range(1, 60)])
    run(
        *(path, "--model", MODEL, "--out", tmp_path / "command", "--max-length", 50),
        *(
            "--max-length-policy",
            "keep-end",
            "--weights",
            "mean",
            "--codec",
            "zstd",
            "--option",
            "enable_thinking=false",
        ),
        *("--train-on-what", "last_assistant_turn", "--control-tokens", "parse", "--block-bytes", 5000, "--dedup"),
        *("--eval-fraction", 0.1, "--backend", "tokenizers", "--renderer", "chat_template", "--max-row-bytes", 10_000),
    )
    spec = spec_of(
        block_bytes=5000, max_length=50, max_length_policy="keep-end", weights="mean", codec="zstd", eval_fraction=0.1,
        renderer_options={"enable_thinking": False}, train_on_what="last_assistant_turn", control_tokens="parse",
        backend="tokenizers", renderer="chat_template", max_row_bytes=10_000,
    )  # fmt: skip
    manifest = build_shards([path], tmp_path / "function", spec, dedup=True)
    assert Manifest.load(tmp_path / "command") == manifest
    assert manifest.events["cut_keep_end"] > 0


def test_standard_input(tmp_path) -> None:
    rows = (CONVERSATIONS / "chat.jsonl").read_bytes()
    arguments = ("-", "--model", MODEL, "--out", tmp_path / "out")
    first = start(*arguments, input=rows)
    assert first.returncode == 0, first.stderr
    assert b"read 126 = accepted 126 + rejected 0" in first.stdout
    assert Manifest.load(tmp_path / "out").run.inputs[0].size == len(rows)
    again = start(*arguments, input=rows)
    assert again.stdout.splitlines()[0].endswith(b"unchanged, nothing to do; this is what is there")
    other = start(*arguments, input=rows[: rows.index(b"\n") + 1])
    assert other.returncode == 2
    assert b"changed: inputs[0].size: " in other.stderr


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nothing.jsonl", "--model", MODEL], "nothing.jsonl: expected a file that exists; got nothing there"),
        ([GOOD, "--model", "fixtures"], "fixtures: expected a tokenizer.json in this folder; got none"),
        ([GOOD, "--model", "./nowhere"], "./nowhere: no such folder"),
        ([GOOD, "--model", MODEL, "--renderer", "qwen9"], "renderer: expected a model folder, a hub id or one of"),
        ([GOOD, "--model", MODEL, "--option", "thinkin=1"], "thinkin: this chat template reads no such option"),
        ([GOOD, "--model", MODEL, "--map", "x"], "map: expected name=column pairs joined by commas; got 'x'"),
        ([GOOD, "--model", MODEL, "--max-rejects", "few"], "max_rejects: expected a number of rows or a share"),
        ([GOOD, "--model", MODEL, "--workers", "2", "--engine", "ray"], None),
    ],
)
def test_a_wrong_argument_is_one_line_and_leaves_nothing_behind(tmp_path, monkeypatch, arguments, message) -> None:
    monkeypatch.chdir(ROOT)
    if message is None:
        monkeypatch.setitem(sys.modules, "ray", None)
        message = "ray is not installed; it comes with the extra"
    with pytest.raises(Exception, match="^" + message.replace("(", r"\(").replace("[", r"\[")) as caught:
        run(*arguments, "--out", tmp_path / "out")
    assert caught.value.exit_code == 2
    assert not (tmp_path / "out" / "run.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--option", "thinking"], "expected name=value; got 'thinking'"),
        (["--option", "a=1", "--option", "a=2"], "expected every name once; got 'a' twice"),
        (["--max-length", "1"], "1 is not in the range x>=2"),
        (["--turns", "both"], "'both' is not one of"),
        (["--modell", "x"], "No such option"),
    ],
)
def test_click_says_what_it_does_not_understand(tmp_path, arguments, message) -> None:
    result = run(GOOD, "--model", MODEL, "--out", tmp_path / "out", *arguments)
    assert result.exit_code == 2
    assert message in result.stderr


def test_options_are_json_or_text() -> None:
    options = render._options(None, None, ("a=true", "b=3", 'c="x"', "d=x y", "e=", "f=a=b"))  # type: ignore[arg-type]
    assert options == {"a": True, "b": 3, "c": "x", "d": "x y", "e": "", "f": "a=b"}


def test_strict_names_the_line(tmp_path) -> None:
    done = start(GOOD, BAD, "--model", MODEL, "--out", tmp_path / "out", "--strict", "--quiet")
    assert done.returncode == 2
    assert done.stderr.decode().startswith(f"error: {BAD}:1: expected JSON; got an error at line 1")
    assert done.stdout == b""


# -- verify and export


@pytest.fixture
def shards(tmp_path) -> Path:
    rows = [chat(words(i), words(i)) for i in range(1, 40)]
    rows += [{"prompt": "Hi", "chosen": f"Yes {i}", "rejected": "No"} for i in range(5)]
    array = tmp_path / "array.json"
    array.write_text(json.dumps([chat("One line", f"for {i}") for i in range(20)]))
    path = write_rows(tmp_path / "rows.jsonl", rows)
    spec = spec_of(block_bytes=2000, eval_fraction=0.3, weights="mean", turns="split", max_length=80)
    build_shards([path, array], tmp_path / "out", spec)
    return tmp_path / "out"


def test_verify_renders_rows_again(shards) -> None:
    result = run(shards, "--sample", "1000", command=verify.command)
    rows = Manifest.load(shards).totals.rows
    assert result.exit_code == 0, result.output
    assert f"rendered again: {rows:,} rows, all the same; not possible for 0" in result.output
    assert result.output.endswith("no faults\n")


def test_verify_finds_a_row_that_renders_differently(shards) -> None:
    manifest = Manifest.load(shards)
    # As if another mode had been used; the hashes of the files are right.
    settings = {**manifest.run.renderer.settings, "train_on_what": "all_messages"}
    renderer = manifest.run.renderer.model_copy(update={"settings": settings})
    manifest.model_copy(update={"run": manifest.run.model_copy(update={"renderer": renderer})}).save(shards)
    result = run(shards, "--json", command=verify.command)
    value = json.loads(result.output)
    assert result.exit_code == 1
    assert {fault[2] for fault in value["faults"]} == {"rerender"}


def test_verify_says_what_it_could_not_render_again(shards, tmp_path) -> None:
    (tmp_path / "rows.jsonl").unlink()
    (tmp_path / "array.json").write_text("[]")
    result = run(shards, command=verify.command)
    assert result.exit_code == 0
    assert f"{tmp_path / 'rows.jsonl'}: not there" in result.output
    assert f"{tmp_path / 'array.json'}: changed since" in result.output
    with pytest.raises(Exception, match="expected the model that these shards were made with"):
        run(shards, "--model", ROOT / "fixtures" / "tiny-headers", command=verify.command)


def test_verify_ends_with_1_when_a_shard_is_damaged(shards) -> None:
    shard = next(shards.glob("train-*.arrow"))
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)
    result = run(shards, command=verify.command)
    assert result.exit_code == 1
    assert f"{shard.name}: expected sha256" in result.output


def test_export_writes_one_split(shards, tmp_path) -> None:
    import pyarrow.parquet as pq

    out = tmp_path / "train.parquet"
    result = run(shards, "--out", out, command=export.command)
    with ShardReader(shards) as reader:
        assert result.output.startswith(f"{out}: {len(reader)} rows, ")
        assert pq.read_table(out).num_rows == len(reader)
    with pytest.raises(Exception, match="out: expected a file that does not exist yet"):
        run(shards, "--out", out, command=export.command)
    run(shards, "--out", out, "--split", "all", "--overwrite", command=export.command)
    assert pq.read_table(out).num_rows == Manifest.load(shards).totals.rows
    assert lines_of(shards / "rejects.jsonl") == []

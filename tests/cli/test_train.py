"""`train-from-shards`, `datumloom sample` and `datumloom chat` as programs of their own: killed, interrupted, piped."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from click import Command
from click.testing import CliRunner, Result

pytest.importorskip("torch", reason="training in process needs the extra `train`")
pytest.importorskip("transformers", reason="training in process needs the extra `train`")

from renderers import UserError
from tests.trainer.recipes.run_samples import (
    ROOT,
    adapter_of,
    lines_of,
    measured,
    write_model,
    write_shards,
)
from trainer.commands import chat, sample, train
from trainer.recipes import TrainResult, load_config, train_from_shards

SETTINGS = (
    "epochs=8",
    "batch_size=6",
    "save_every=5",
    "learning_rate=5e-3",
    "lora.rank=4",
    "dtype=float32",
    "device=cpu",
)
SECONDS = 120


def program(entry: str, *arguments: object) -> list[str]:
    """The command line of a console script."""
    code = f"import sys; sys.argv[0] = {entry!r}; import cli; cli.{entry}()"
    return [sys.executable, "-W", "error", "-c", code, *map(str, arguments)]


def ended(entry: str, *arguments: object, text: str | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        program(entry, *arguments),
        input=text,
        capture_output=True,
        text=True,
        encoding="utf-8",
        cwd=ROOT,
        check=False,
        timeout=SECONDS,
    )


def stopped_by(number: signal.Signals, after: int, out: Path, *arguments: object) -> tuple[int, str]:
    """Start a run, send it a signal once it has measured `after` steps; its exit status and standard error."""
    process = subprocess.Popen(
        program("train_from_shards", *arguments),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    deadline = time.monotonic() + SECONDS
    metrics = out / "metrics.jsonl"
    while not (metrics.exists() and any(line.get("step", 0) >= after for line in lines_of(metrics))):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(number)
    _, errors = process.communicate(timeout=SECONDS)
    return process.returncode, errors


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    # Large enough that a step takes a while: the signal comes before the end.
    return write_model(tmp_path_factory.mktemp("model"), hidden_size=64, num_hidden_layers=3)


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="module")
def whole(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """The run that nobody interrupts."""
    out = tmp_path_factory.mktemp("whole") / "run"
    return train_from_shards(load_config(None, SETTINGS, {"shards": str(shards), "model": str(model), "out": str(out)}))


def test_killed_and_interrupted_it_ends_in_the_same_adapter(
    whole: TrainResult, model: Path, shards: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    arguments = (shards, "--model", model, "--out", out, "--quiet", *SETTINGS)
    status, _ = stopped_by(signal.SIGKILL, 8, out, *arguments)
    assert status == -signal.SIGKILL
    first = lines_of(out / "checkpoints.jsonl")
    assert first[-1]["name"] != "final"
    status, errors = stopped_by(signal.SIGINT, first[-1]["step"] + 7, out, *arguments)
    assert status == 130
    assert f"{out}: stopped; the same command goes on from the last checkpoint" in errors
    assert "Traceback" not in errors
    assert lines_of(out / "checkpoints.jsonl")[-1]["name"] != "final"
    done = invoke(train.command, *arguments, "--json")
    summary = json.loads(done.stdout)
    assert (summary["steps"], summary["tokens"]) == (whole.steps, whole.tokens)
    result = TrainResult(out, whole.steps, whole.tokens, whole.checkpoint, False, {})
    assert adapter_of(result) == adapter_of(whole)
    assert measured(out) == measured(whole.folder)


def invoke(command: Command, *arguments: object, text: str | None = None) -> Result:
    """In this process, as importing all that training needs takes a program seconds; an error of ours is raised."""
    result = CliRunner().invoke(command, [str(argument) for argument in arguments], input=text)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0
    return result


def test_a_finished_run_says_so(whole: TrainResult, model: Path, shards: Path) -> None:
    arguments = (shards, "--model", model, "--out", whole.folder, *SETTINGS)
    text = invoke(train.command, *arguments).stdout
    assert text == f"{whole.folder}: finished already, {whole.steps} steps; nothing to do\n"
    summary = json.loads(invoke(train.command, *arguments, "--json").stdout)
    assert summary["was_finished"] is True
    assert summary["sampler_path"] == whole.checkpoint.sampler_path


def test_progress_shows_steps_loss_and_rate(model: Path, shards: Path, tmp_path: Path) -> None:
    done = invoke(train.command, shards, "--model", model, "--out", tmp_path / "run", "max_steps=2", "device=cpu")
    last = done.stderr.splitlines()[-1]
    assert last.startswith("train: 2 steps in ")
    assert "loss " in last
    assert " tokens/s" in last
    assert "step 0: held out: nll " in done.stderr
    assert "train_mean_nll" in done.stdout
    assert f"report: {tmp_path / 'run' / 'report.html'}" in done.stdout


def test_faults_are_one_line_and_code_2(model: Path, shards: Path) -> None:
    done = ended("train_from_shards", shards, "--model", model, "--out", "unused", "learning_rat=1")
    assert done.returncode == 2
    assert done.stderr == "error: learning_rat: unknown key; did you mean learning_rate?\n"
    with pytest.raises(UserError, match="out: expected a value; got none"):
        invoke(train.command, shards, "--model", model)
    with pytest.raises(UserError, match=r"nowhere\.toml: expected a TOML file"):
        invoke(train.command, shards, "--model", model, "--out", "unused", "--config", "nowhere.toml")


@pytest.mark.parametrize("drawing", [("--temperature", "0"), ("--temperature", "1", "--seed", "3")])
def test_sample_answers_and_shows_the_parsed_message(whole: TrainResult, drawing: tuple[str, ...]) -> None:
    options = (*drawing, "--max-tokens", "20", "--device", "cpu")
    plain = invoke(sample.command, whole.folder, "What is 2 + 3?", *options)
    parsed = invoke(sample.command, whole.folder, *options, "--json", text="What is 2 + 3?\n")
    answer: dict[str, Any] = json.loads(parsed.stdout)
    assert answer["message"]["role"] == "assistant"
    # Shown as it comes or parsed as a whole, it is the same answer.
    assert answer["message"]["content"].strip() == plain.stdout.strip()
    assert 1 <= len(answer["tokens"]) <= 20


def test_chat_reads_a_pipe_and_keeps_its_history(whole: TrainResult) -> None:
    options = ("--temperature", "0", "--max-tokens", "4", "--device", "cpu")
    done = ended("main", "chat", whole.folder, *options, text="Hello\n\nAnd now?\n/reset\nHello\n/quit\nnot read\n")
    assert done.returncode == 0, done.stderr
    assert "[a new conversation]" in done.stderr
    assert "error" not in done.stderr
    once = invoke(chat.command, whole.folder, *options, text="Hello\n").stdout
    longer = invoke(chat.command, whole.folder, *options, text="Hello\nAnd now?").stdout
    assert longer.startswith(once)
    assert done.stdout == longer + once


def test_a_conversation_that_does_not_fit_any_more_is_said(whole: TrainResult) -> None:
    options = ("--temperature", "0", "--max-tokens", "4", "--device", "cpu")
    done = invoke(chat.command, whole.folder, *options, text="Hello\n" + "far too much " * 600 + "\nHello\n")
    assert done.stderr.count("error: ") == 1
    assert done.stdout.count("\n") >= 2


def test_a_checkpoint_is_named_by_its_path(whole: TrainResult) -> None:
    path = whole.checkpoint.state_path
    options = ("--temperature", "0", "--max-tokens", "2", "--device", "cpu")
    named = invoke(sample.command, path, "Hi", "--run", whole.folder, *options)
    newest = invoke(sample.command, whole.folder, "Hi", *options)
    assert named.stdout == newest.stdout
    with pytest.raises(UserError, match="--run: expected the run folder"):
        invoke(sample.command, path, "Hi", *options)


def test_faults_of_sample_and_chat(whole: TrainResult, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="PROMPT: expected text"):
        invoke(sample.command, whole.folder, text="\n")
    with pytest.raises(UserError, match="no such folder"):
        invoke(sample.command, tmp_path / "nowhere", "Hi")
    (tmp_path / "tools.json").write_text("{}")
    with pytest.raises(UserError, match="expected a list of tools; got dict"):
        invoke(chat.command, whole.folder, "--tools", tmp_path / "tools.json", text="Hi\n")
    (tmp_path / "checkpoints.jsonl").write_text("")
    (tmp_path / "config.json").write_text('{"model": "m"}')
    with pytest.raises(UserError, match="expected the folder of a run with a checkpoint"):
        invoke(sample.command, tmp_path, "Hi")

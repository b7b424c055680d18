"""Stopped at any point and called again, a run ends in the same adapter, bit for bit, with the same lines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.trainer.recipes.conftest import FINISHED
from tests.trainer.recipes.run_samples import adapter_of, lines_of, measured, run, write_shards
from trainer.recipes import RunFolder, TrainResult
from trainer.recipes.saving import Saver


class Crash(BaseException):
    """Stands for a process that is gone: nothing of ours catches it."""


def crash_at(call: int, function: Callable[..., Any], *, before: bool) -> Callable[..., Any]:
    """`function` that dies in its call number `call`, before or after doing its work."""
    seen = 0

    def wrapped(*arguments: Any, **named: Any) -> Any:
        nonlocal seen
        seen += 1
        if seen == call and before:
            raise Crash
        result = function(*arguments, **named)
        if seen == call:
            raise Crash
        return result

    return wrapped


@pytest.mark.parametrize(
    ("owner", "name", "call", "before"),
    [
        (RunFolder, "log_metrics", 1, True),  # nothing was measured yet
        (RunFolder, "log_metrics", 7, False),  # between two checkpoints, in the first epoch
        (RunFolder, "write_checkpoints", 2, True),  # saved and not listed
        (RunFolder, "write_checkpoints", 4, False),  # listed, the oldest not deleted yet
        (Saver, "save", 5, False),  # just after a checkpoint, in the second epoch
        (RunFolder, "write_checkpoints", 5, True),  # all done, the end not listed
    ],
)
def test_the_adapter_is_that_of_an_uninterrupted_run(
    owner: type,
    name: str,
    call: int,
    before: bool,
    finished: TrainResult,
    model: Path,
    shards: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(owner, name, crash_at(call, getattr(owner, name), before=before))
        with pytest.raises(Crash):
            run(model, shards, out, **FINISHED)
    assert all(line["name"] != "final" for line in _checkpoints(out))
    again = run(model, shards, out, **FINISHED)
    assert not again.was_finished
    assert adapter_of(again) == adapter_of(finished)
    assert measured(out) == measured(finished.folder)
    assert lines_of(out / "samples.jsonl") == lines_of(finished.folder / "samples.jsonl")
    kept = {line["state_path"].rsplit("/", 1)[1] for line in _checkpoints(out)}
    on_disk = {path.parent.name for path in (out / "checkpoints").rglob("weights/*/adapter_config.json")}
    assert on_disk == kept


def test_a_line_that_was_being_written_is_done_again(
    finished: TrainResult, model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "run"
    with monkeypatch.context() as patch:
        patch.setattr(RunFolder, "log_metrics", crash_at(6, RunFolder.log_metrics, before=False))
        with pytest.raises(Crash):
            run(model, shards, out, **FINISHED)
    with (out / "metrics.jsonl").open("ab") as stream:
        stream.write(b'{"step": 6, "train_me')
    run(model, shards, out, **FINISHED)
    assert measured(out) == measured(finished.folder)


def test_preference_training_goes_on_exactly(model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shards = write_shards(tmp_path / "pairs", "preference.jsonl", rows=12)
    options: dict[str, Any] = {"objective": "dpo", "batch_size": 3, "save_every": 1, "epochs": 2}
    whole = run(model, shards, tmp_path / "whole", **options)
    with monkeypatch.context() as patch:
        patch.setattr(Saver, "save", crash_at(2, Saver.save, before=False))
        with pytest.raises(Crash):
            run(model, shards, tmp_path / "run", **options)
    again = run(model, shards, tmp_path / "run", **options)
    assert adapter_of(again) == adapter_of(whole)
    assert measured(again.folder) == measured(whole.folder)


def _checkpoints(out: Path) -> list[dict[str, Any]]:
    path = out / "checkpoints.jsonl"
    return lines_of(path) if path.exists() else []

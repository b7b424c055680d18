"""Trackers: the protocol by entry point, the built-in ones where their library is installed, all without a network."""

from __future__ import annotations

import importlib.util
import sys
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import pytest

from renderers import MissingExtraError, OptionError
from tests.trainer.recipes.run_samples import measured, run
from trainer.recipes import TrackerContext, tracker_names, trackers
from trainer.recipes.trackers import open_trackers

HPARAMS = {"model": "m", "lora": {"rank": 4}, "trackers": ["x"], "base_url": None}


def context_of(folder: Path, *, resumed: bool = False) -> TrackerContext:
    return TrackerContext(folder, "run", resumed)


def use(tracker: Any) -> None:
    """All that a run does with one."""
    tracker.log_hparams(HPARAMS)
    for step in (1, 2):
        tracker.log_metrics({"train_mean_nll": 3.0 - step, "time/total": 0.5}, step)
    tracker.log_long_text("sample", "What?\nThat.", 2)
    tracker.close()


class Recorder:
    """What another distribution would bring."""

    def __init__(self, context: TrackerContext) -> None:
        self.context = context
        self.calls: list[tuple[Any, ...]] = []
        RECORDERS.append(self)

    def log_hparams(self, config: Any) -> None:
        self.calls.append(("hparams", config["model"], config["shards_fingerprint"][:0]))

    def log_metrics(self, metrics: Any, step: int) -> None:
        self.calls.append(("metrics", step, sorted(metrics)))

    def log_long_text(self, key: str, text: str, step: int) -> None:
        self.calls.append(("text", key, step))

    def close(self) -> None:
        self.calls.append(("close",))


RECORDERS: list[Recorder] = []


def test_others_bring_theirs_by_entry_point(
    model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = EntryPoint("recorder", f"{__name__}:Recorder", "datumloom.trackers")
    monkeypatch.setitem(sys.modules, __name__, sys.modules[__name__])
    monkeypatch.setattr(trackers, "entry_points", lambda group: [entry] if group == "datumloom.trackers" else [])
    assert "recorder" in tracker_names()
    RECORDERS.clear()
    sample = {"prompts": ["Hello"], "max_tokens": 2}
    run(model, shards, tmp_path / "run", max_steps=2, trackers=["recorder"], sample=sample)
    (recorder,) = RECORDERS
    assert not recorder.context.resumed
    assert recorder.calls[0] == ("hparams", str(model), "")
    assert recorder.calls[-1] == ("close",)
    logged = [(call[1], set(call[2])) for call in recorder.calls if call[0] == "metrics"]
    written = [(line["step"], set(line) - {"step"}) for line in measured(tmp_path / "run")]
    assert [step for step, _ in logged] == [step for step, _ in written] == [0, 1, 2, 2]
    assert all(names >= lines for (_, names), (_, lines) in zip(logged, written, strict=True))
    assert [call for call in recorder.calls if call[0] == "text"] == [("text", "sample", 0), ("text", "sample", 2)]


def test_an_unknown_tracker_is_refused_before_the_model_is_loaded(tmp_path: Path) -> None:
    with pytest.raises(OptionError, match=r"trackers: expected some of .*wandb; got 'wandbb'; did you mean wandb\?"):
        open_trackers(["wandbb"], context_of(tmp_path))


@pytest.mark.parametrize("name", ["mlflow", "tensorboard", "trackio", "wandb"])
def test_a_missing_library_names_its_extra(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(MissingExtraError, match=rf"datumloom\[{name}\]"):
        open_trackers([name], context_of(tmp_path))


def needs(library: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(
        importlib.util.find_spec(library) is None, reason=f"{library} is not installed (extra {library})"
    )


@needs("tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_tensorboard_reads_what_was_logged(tmp_path: Path) -> None:
    (tracker,) = open_trackers(["tensorboard"], context_of(tmp_path))
    use(tracker)
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(tmp_path / "trackers" / "tensorboard"))
    events.Reload()
    assert [(event.step, event.value) for event in events.Scalars("train_mean_nll")] == [(1, 2.0), (2, 1.0)]
    assert any(tag.startswith("sample") for tag in events.Tags()["tensors"])


@needs("wandb")
@pytest.mark.filterwarnings("ignore")
def test_wandb_works_offline_and_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    for resumed in (False, True):
        (tracker,) = open_trackers(["wandb"], context_of(tmp_path, resumed=resumed))
        use(tracker)
    run_id = (tmp_path / "trackers" / "wandb-id.txt").read_text()
    written = list((tmp_path / "trackers" / "wandb").rglob("run-*.wandb"))
    assert [path.name for path in written] == [f"run-{run_id}.wandb"] * 2


@needs("trackio")
@pytest.mark.filterwarnings("ignore")
def test_trackio_writes_its_database_into_the_run_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TRACKIO_DIR", raising=False)
    (tracker,) = open_trackers(["trackio"], context_of(tmp_path))
    use(tracker)
    assert list((tmp_path / "trackers" / "trackio").glob("*.db"))


@needs("mlflow")
@pytest.mark.filterwarnings("ignore")
def test_mlflow_writes_its_database_into_the_run_folder(tmp_path: Path) -> None:
    (tracker,) = open_trackers(["mlflow"], context_of(tmp_path))
    use(tracker)
    assert (tmp_path / "trackers" / "mlflow.db").exists()

"""wandb, trackio, tensorboard and mlflow as `MetricLogger`s; each library is imported when its adapter is made.

None of them needs a network: wandb honours `WANDB_MODE=offline`, the others write into the run folder unless the
environment points them elsewhere.
"""

from __future__ import annotations

import importlib
import json
import os
import uuid
from collections.abc import Iterator, Mapping
from typing import Any, cast

from renderers import MissingExtraError

from .trackers import TrackerContext

__all__ = ["MlflowLogger", "TensorboardLogger", "TrackioLogger", "WandbLogger"]

_PROJECT = "datumloom"


def _library(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError:
        raise MissingExtraError(module.split(".", maxsplit=1)[0], extra) from None


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """`lora.rank` and its value as text, for trackers that know no nesting."""
    for key, value in config.items():
        if isinstance(value, Mapping):
            yield from _flat(cast("Mapping[str, Any]", value), f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value if isinstance(value, str) else json.dumps(value)


class WandbLogger:
    """A wandb run whose id is kept in the run folder, so that a run that goes on goes on there too."""

    def __init__(self, context: TrackerContext) -> None:
        wandb = _library("wandb", "wandb")
        kept = context.tracker_dir / "wandb-id.txt"
        run_id = kept.read_text(encoding="utf-8").strip() if kept.exists() else uuid.uuid4().hex[:8]
        kept.write_text(run_id, encoding="utf-8")
        self._run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            name=context.name,
            id=run_id,
            resume="allow",
            dir=str(context.tracker_dir),
        )
        # Its own counter only goes up, and a run that goes on measures some steps again.
        self._run.define_metric("*", step_metric="step")

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(config), allow_val_change=True)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._run.log({**metrics, "step": step})

    def log_long_text(self, key: str, text: str, step: int) -> None:
        self._run.log({key: text, "step": step})

    def close(self) -> None:
        self._run.finish()


class TrackioLogger:
    """A trackio run; its database is in the run folder unless `TRACKIO_DIR` says otherwise."""

    def __init__(self, context: TrackerContext) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(context.tracker_dir / "trackio"))
        trackio = _library("trackio", "trackio")
        self._run = trackio.init(project=_PROJECT, name=context.name, resume="allow")
        self._trackio = trackio

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        self._run.config.update(dict(_flat(config)))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._trackio.log(dict(metrics), step=step)

    def log_long_text(self, key: str, text: str, step: int) -> None:
        self._trackio.log({key: text}, step=step)

    def close(self) -> None:
        self._trackio.finish()


class TensorboardLogger:
    """Event files under the run folder."""

    def __init__(self, context: TrackerContext) -> None:
        _library("tensorboard", "tensorboard")
        writer = _library("torch.utils.tensorboard", "train")
        self._writer = writer.SummaryWriter(str(context.tracker_dir / "tensorboard"))

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        self._writer.add_text("config", "```json\n" + json.dumps(config, indent=2, default=str) + "\n```")

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def log_long_text(self, key: str, text: str, step: int) -> None:
        self._writer.add_text(key, text, step)

    def close(self) -> None:
        self._writer.close()


class MlflowLogger:
    """An mlflow run; a SQLite database in the run folder unless `MLFLOW_TRACKING_URI` says otherwise."""

    def __init__(self, context: TrackerContext) -> None:
        mlflow = _library("mlflow", "mlflow")
        if not os.environ.get("MLFLOW_TRACKING_URI"):
            mlflow.set_tracking_uri(f"sqlite:///{(context.tracker_dir / 'mlflow.db').resolve()}")
        mlflow.set_experiment(_PROJECT)
        kept = context.tracker_dir / "mlflow-id.txt"
        run_id = kept.read_text(encoding="utf-8").strip() if kept.exists() else None
        run = mlflow.start_run(run_id=run_id, run_name=None if run_id else context.name)
        kept.write_text(run.info.run_id, encoding="utf-8")
        self._mlflow = mlflow
        self._resumed = run_id is not None

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        if not self._resumed:  # parameters of a run cannot be written twice
            self._mlflow.log_params(dict(_flat(config)))

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._mlflow.log_metrics({name: float(value) for name, value in metrics.items()}, step=step)

    def log_long_text(self, key: str, text: str, step: int) -> None:
        self._mlflow.log_text(text, f"{key.replace('/', '-')}-{step}.txt")

    def close(self) -> None:
        self._mlflow.end_run()

"""Where metrics go besides `metrics.jsonl`: a small protocol, built-in adapters, and other people's by entry point.

A tracker of another distribution is an entry point of the group `datumloom.trackers`: a callable that takes a
`TrackerContext` and gives a `MetricLogger`.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self, cast

from renderers import OptionError

from .run_folder import RunFolder

__all__ = ["FolderLogger", "MetricLogger", "MultiLogger", "TrackerContext", "open_trackers", "tracker_names"]

_ENTRY_POINTS = "datumloom.trackers"
_BUILT_IN = {
    "mlflow": "MlflowLogger",
    "tensorboard": "TensorboardLogger",
    "trackio": "TrackioLogger",
    "wandb": "WandbLogger",
}


@dataclass(frozen=True)
class TrackerContext:
    """What a tracker is told.

    Attributes:
        run_dir: the run folder; files of a tracker go under `run_dir / "trackers"`.
        name: of the run.
        resumed: whether the run goes on from a checkpoint.
    """

    run_dir: Path
    name: str
    resumed: bool

    @property
    def tracker_dir(self) -> Path:
        """A folder for a tracker's files, made when asked for."""
        folder = self.run_dir / "trackers"
        folder.mkdir(exist_ok=True)
        return folder


class MetricLogger(Protocol):
    """One place for metrics."""

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        """The configuration, once, nested as it is."""
        ...

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        """Numbers of one step."""
        ...

    def log_long_text(self, key: str, text: str, step: int) -> None:
        """Text such as a sample."""
        ...

    def close(self) -> None:
        """Write what is held back."""
        ...


class FolderLogger:
    """`metrics.jsonl`; samples have their own file."""

    def __init__(self, folder: RunFolder) -> None:
        self._folder = folder

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        """Nothing: `config.json` is there already."""

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        self._folder.log_metrics({"step": step, **metrics})

    def log_long_text(self, key: str, text: str, step: int) -> None:
        """Nothing: `samples.jsonl` has it."""

    def close(self) -> None:
        """Nothing: every line is written at once."""


class MultiLogger:
    """Every tracker, one after another; a context that closes them all."""

    def __init__(self, loggers: Sequence[MetricLogger]) -> None:
        self._loggers = list(loggers)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def log_hparams(self, config: Mapping[str, Any]) -> None:
        for logger in self._loggers:
            logger.log_hparams(config)

    def log_metrics(self, metrics: Mapping[str, float], step: int) -> None:
        for logger in self._loggers:
            logger.log_metrics(metrics, step)

    def log_long_text(self, key: str, text: str, step: int) -> None:
        for logger in self._loggers:
            logger.log_long_text(key, text, step)

    def close(self) -> None:
        for logger in self._loggers:
            logger.close()


def tracker_names() -> list[str]:
    """Every name that `trackers` may hold here."""
    return sorted({*_BUILT_IN, *(entry.name for entry in entry_points(group=_ENTRY_POINTS))})


def open_trackers(names: Sequence[str], context: TrackerContext) -> list[MetricLogger]:
    """The named trackers, in order.

    Raises:
        OptionError: an unknown name, with the nearest known one.
        MissingExtraError: its library is not installed.
    """
    return [_factory(name)(context) for name in names]


def _factory(name: str) -> Callable[[TrackerContext], MetricLogger]:
    if name in _BUILT_IN:
        module = importlib.import_module(".tracker_adapters", __package__)
        return cast("Callable[[TrackerContext], MetricLogger]", getattr(module, _BUILT_IN[name]))
    for entry in entry_points(group=_ENTRY_POINTS):
        if entry.name == name:
            return cast("Callable[[TrackerContext], MetricLogger]", entry.load())
    near = difflib.get_close_matches(name, tracker_names(), n=1)
    hint = f"; did you mean {near[0]}?" if near else ""
    raise OptionError(f"trackers: expected some of {', '.join(tracker_names())}; got {name!r}{hint}")

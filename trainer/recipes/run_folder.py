"""The run folder: what a run was told, what it measured, where it can go on.

config.json        the configuration and what follows from it, written first
metrics.jsonl      a line per step and per evaluation; cut back to the last checkpoint when the run goes on
samples.jsonl      answers to the sample prompts
checkpoints.jsonl  a line per checkpoint; the one named `final` ends the run
checkpoints/       the checkpoints themselves, of a run in process
report.html        curves
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self, cast

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from datasets_io import BatchPosition, atomic_stream, lock_folder, remove_leftovers, write_json
from renderers import OptionError, UserError

from .config import TrainConfig

__all__ = ["CHECKPOINTS_FOLDER", "FINAL_NAME", "CheckpointRecord", "RunFolder", "last_checkpoint", "read_lines"]

CHECKPOINTS_FOLDER = "checkpoints"
FINAL_NAME = "final"
_CONFIG, _METRICS, _SAMPLES, _CHECKPOINTS = "config.json", "metrics.jsonl", "samples.jsonl", "checkpoints.jsonl"
_REPORT = "report.html"
_OURS = (_CONFIG, _METRICS, _SAMPLES, _CHECKPOINTS, _REPORT, CHECKPOINTS_FOLDER, "trackers")


class CheckpointRecord(BaseModel):
    """A line of `checkpoints.jsonl`.

    Attributes:
        name: `step-000100`, or `final`.
        step: optimizer steps done.
        epoch: in which epoch (from 0).
        position: which batches are done; None after the last.
        state_path: weights and moments.
        sampler_path: weights alone, of the final one.
        tokens: model input tokens trained on so far.
    """

    model_config = ConfigDict(extra="ignore", frozen=True)

    name: str
    step: int
    epoch: int
    position: BatchPosition | None
    state_path: str
    sampler_path: str | None = None
    tokens: int = 0


class RunFolder:
    """The folder of one run, locked for as long as the context is open.

    Raises:
        UserError: it is a file, holds something that is not ours, or another run is writing into it.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._lock = -1

    def __enter__(self) -> Self:
        if self.path.exists() and not self.path.is_dir():
            raise UserError(f"{self.path}: expected a folder for the run; got a file")
        names = {entry.name for entry in self.path.iterdir()} if self.path.is_dir() else set[str]()
        foreign = sorted(name for name in names if name not in _OURS and not name.startswith("."))
        if foreign and _CONFIG not in names:
            raise UserError(f"{self.path}: expected a new folder or one of a run; it holds {foreign[0]}")
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock = lock_folder(self.path)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._lock)

    @property
    def checkpoint_dir(self) -> Path:
        """Where checkpoints of a run in process lie."""
        return self.path / CHECKPOINTS_FOLDER

    @property
    def report_path(self) -> Path:
        return self.path / _REPORT

    # ---- beginning, going on

    def begin(self, config: TrainConfig, facts: Mapping[str, Any], *, overwrite: bool = False) -> None:
        """Write `config.json`, or compare with the one that is there.

        Args:
            config: of this run.
            facts: what decides the result besides, such as the shards' fingerprint.
            overwrite: delete what an earlier run left first.

        Raises:
            OptionError: the folder is of a run with another configuration; the keys are named.
        """
        if overwrite:
            self._clear()
        remove_leftovers(self.path)
        wanted = {**config.model_dump(mode="json"), "facts": dict(facts)}
        found = self._config()
        if found is None or not self._has_begun():
            self._clear()  # nothing was measured under the configuration that is there, if one is
            write_json(self.path / _CONFIG, wanted)
        elif changed := list(_changes(found, wanted)):
            raise OptionError(
                f"{self.path}: expected the configuration that this run began with; {'; '.join(changed)}. "
                "Use another folder, or overwrite to begin again"
            )

    def cut_back(self, step: int) -> None:
        """Forget what was measured after `step`, which will be done again."""
        for name in (_METRICS, _SAMPLES):
            path = self.path / name
            if path.exists():
                kept = [line for line in read_lines(path) if line.get("step", 0) <= step]
                _write_lines(path, kept)

    def _has_begun(self) -> bool:
        return any((self.path / name).exists() for name in (_METRICS, _CHECKPOINTS))

    def _config(self) -> dict[str, Any] | None:
        try:
            return cast("dict[str, Any]", orjson.loads((self.path / _CONFIG).read_bytes()))
        except FileNotFoundError:
            return None
        except orjson.JSONDecodeError as error:
            raise UserError(f"{self.path / _CONFIG}: expected JSON; {error}") from None

    def _clear(self) -> None:
        for name in _OURS:
            path = self.path / name
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    # ---- checkpoints

    def checkpoints(self) -> list[CheckpointRecord]:
        """All that are kept, oldest first."""
        return _records(self.path / _CHECKPOINTS)

    def write_checkpoints(self, records: list[CheckpointRecord]) -> None:
        """Replace the list, whole or not at all."""
        _write_lines(self.path / _CHECKPOINTS, [record.model_dump(mode="json") for record in records])

    # ---- metrics and samples

    def log_metrics(self, metrics: Mapping[str, Any]) -> None:
        _append(self.path / _METRICS, metrics)

    def log_sample(self, sample: Mapping[str, Any]) -> None:
        _append(self.path / _SAMPLES, sample)

    def metrics(self) -> list[dict[str, Any]]:
        return list(read_lines(self.path / _METRICS))

    def samples(self) -> list[dict[str, Any]]:
        return list(read_lines(self.path / _SAMPLES))


def last_checkpoint(run: str | os.PathLike[str]) -> CheckpointRecord:
    """The newest checkpoint of a run folder; `UserError` when there is none."""
    path = Path(run) / _CHECKPOINTS
    records = _records(path)
    if not records:
        raise UserError(f"{run}: expected the folder of a run with a checkpoint; {_CHECKPOINTS} names none")
    return records[-1]


def read_lines(path: Path) -> Iterator[dict[str, Any]]:
    """JSON objects of a file, none when it is missing; a last line that a killed run left unfinished is passed over.

    Raises:
        UserError: another line is no JSON.
    """
    lines = path.read_bytes().split(b"\n") if path.exists() else []
    for number, line in enumerate(lines, 1):
        try:
            if line:
                yield orjson.loads(line)
        except orjson.JSONDecodeError as error:
            if number < len(lines):
                raise UserError(f"{path}:{number}: expected JSON; {error}") from None


def _records(path: Path) -> list[CheckpointRecord]:
    try:
        return [CheckpointRecord.model_validate(line) for line in read_lines(path)]
    except ValidationError as error:
        raise UserError(f"{path}: expected lines about checkpoints; {error.errors()[0]['msg']}") from None


def _append(path: Path, value: Mapping[str, Any]) -> None:
    with path.open("ab") as stream:
        stream.write(orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY | orjson.OPT_APPEND_NEWLINE))


def _write_lines(path: Path, values: list[dict[str, Any]]) -> None:
    with atomic_stream(path) as stream:
        stream.writelines(orjson.dumps(value, option=orjson.OPT_APPEND_NEWLINE) for value in values)


def _changes(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    """`lora.rank: 8 -> 16` for every leaf that differs, in one order."""
    for key in dict.fromkeys([*old, *new]):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _changes(
                cast("dict[str, Any]", before), cast("dict[str, Any]", after), "" if key == "facts" else f"{key}."
            )
        elif before != after and f"{prefix}{key}" != "out":
            yield f"{prefix}{key}: {before!r} -> {after!r}"

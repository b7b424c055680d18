"""`tinker://{training run}/{weights|sampler_weights|external_weights}/{name}`: the one grammar of checkpoint paths."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from renderers import OptionError

__all__ = ["CheckpointType", "ParsedCheckpointTinkerPath", "check_checkpoint_name", "check_run_id"]

CheckpointType = Literal["training", "sampler", "external"]
_SCHEME = "tinker://"
_SEGMENTS: dict[str, CheckpointType] = {
    "weights": "training",
    "sampler_weights": "sampler",
    "external_weights": "external",
}
_FOLDERS = {kind: segment for segment, kind in _SEGMENTS.items()}
# No slash, no leading dot: a name is one harmless folder on any file system and one part of an object store's key.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}")
_RUN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._:-]{0,199}")


def check_checkpoint_name(name: object, field: str = "name") -> str:
    """`name`; `OptionError` when it is no legal checkpoint name."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise OptionError(
            f"{field}: expected 1 to 128 of the characters A-Z a-z 0-9 . _ - (no leading . or -); got {name!r}"
        )
    return name


def check_run_id(run_id: object, field: str = "training_run_id") -> str:
    """`run_id`; `OptionError` when it cannot be a training run's."""
    if not isinstance(run_id, str) or not _RUN.fullmatch(run_id):
        raise OptionError(f"{field}: expected a training run id of the characters A-Z a-z 0-9 . _ : -; got {run_id!r}")
    return run_id


@dataclass(frozen=True)
class ParsedCheckpointTinkerPath:
    """A checkpoint's path in parts.

    Attributes:
        tinker_path: the whole.
        training_run_id: its first part.
        checkpoint_type: `training`, `sampler` or `external`.
        checkpoint_id: `weights/name` and so on, as REST calls spell it.
    """

    tinker_path: str
    training_run_id: str
    checkpoint_type: CheckpointType
    checkpoint_id: str

    @property
    def name(self) -> str:
        return self.checkpoint_id.partition("/")[2]

    @classmethod
    def of(cls, training_run_id: str, checkpoint_type: CheckpointType, name: str) -> ParsedCheckpointTinkerPath:
        """The path of a named checkpoint; raises `OptionError` for a bad run id or name."""
        check_run_id(training_run_id)
        checkpoint_id = f"{_FOLDERS[checkpoint_type]}/{check_checkpoint_name(name)}"
        return cls(f"{_SCHEME}{training_run_id}/{checkpoint_id}", training_run_id, checkpoint_type, checkpoint_id)

    @classmethod
    def from_tinker_path(cls, tinker_path: str) -> ParsedCheckpointTinkerPath:
        """
        >>> ParsedCheckpointTinkerPath.from_tinker_path("tinker://run:train:0/weights/step-1").checkpoint_id
        'weights/step-1'

        Raises:
            OptionError: the text is no checkpoint path.
        """
        parts = tinker_path.removeprefix(_SCHEME).split("/") if isinstance(tinker_path, str) else []
        if not parts or not tinker_path.startswith(_SCHEME) or len(parts) != 3 or parts[1] not in _SEGMENTS:
            raise OptionError(f"path: expected tinker://RUN/{{{'|'.join(_SEGMENTS)}}}/NAME; got {tinker_path!r}")
        return cls.of(parts[0], _SEGMENTS[parts[1]], parts[2])

    @classmethod
    def from_checkpoint_id(cls, training_run_id: str, checkpoint_id: str) -> ParsedCheckpointTinkerPath:
        """From a run and `weights/name`."""
        return cls.from_tinker_path(f"{_SCHEME}{training_run_id}/{checkpoint_id}")

"""Who may see what: another owner's object does not exist."""

from __future__ import annotations

from typing import TypeVar

from renderers import OptionError
from trainer.protocol import NotFoundError, ParsedCheckpointTinkerPath

from .checkpoints import CheckpointStore, StoredCheckpoint
from .metadata import RunRecord, SamplerRecord, SessionRecord

__all__ = ["check_name_is_free", "owned", "readable_checkpoint", "training_checkpoint"]

Record = TypeVar("Record", SessionRecord, RunRecord, SamplerRecord)


def owned(record: Record, owner: str, field: str, key: str) -> Record:
    """The record; `NotFoundError` when it is another owner's."""
    if record.owner != owner:
        raise NotFoundError(f"{field}: expected one that exists; got {key!r}")
    return record


def readable_checkpoint(store: CheckpointStore, path: str, owner: str) -> StoredCheckpoint:
    """A checkpoint of this owner, or a public one; `NotFoundError` when there is none."""
    stored = store.find(ParsedCheckpointTinkerPath.from_tinker_path(path))
    if stored.info.owner != owner and not stored.public:
        raise NotFoundError(f"path: expected a checkpoint that exists; got {path!r}")
    return stored


def training_checkpoint(store: CheckpointStore, path: str, owner: str, *, optimizer: bool) -> StoredCheckpoint:
    """A checkpoint that training can start from; with `optimizer` one that has its moments.

    Raises:
        NotFoundError: there is none.
        OptionError: it holds no training weights, or no moments.
    """
    stored = readable_checkpoint(store, path, owner)
    if stored.path.checkpoint_type != "training":
        raise OptionError(f"path: expected tinker://RUN/weights/NAME to train from; got {path!r}")
    if optimizer and not stored.info.has_optimizer:
        raise OptionError(f"optimizer: expected a checkpoint saved with its optimizer state; {path} has none")
    return stored


def check_name_is_free(store: CheckpointStore, path: ParsedCheckpointTinkerPath) -> None:
    """`OptionError` when there is a checkpoint of that name."""
    try:
        store.find(path)
    except NotFoundError:
        return
    raise OptionError(f"name: expected one that is free, or overwrite=True; {path.tinker_path} exists")

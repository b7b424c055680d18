"""Checkpoints of a run: named by step, listed in `checkpoints.jsonl`, the oldest deleted."""

from __future__ import annotations

from typing import Any

from .run_folder import FINAL_NAME, CheckpointRecord, RunFolder
from .training_data import Step

__all__ = ["Saver", "delete_unlisted"]

_PAGE = 100


class Saver:
    """Saves the client's state and keeps the newest.

    Args:
        folder: of the run.
        client: what is trained.
        rest: the service's `RestClient`, for deleting.
        keep: how many to keep; 0 for all.
    """

    def __init__(self, folder: RunFolder, client: Any, rest: Any, keep: int) -> None:
        self._folder = folder
        self._client = client
        self._rest = rest
        self._keep = keep

    def save(self, step: Step, tokens: int, *, final: bool = False) -> CheckpointRecord:
        """Weights and moments after `step`; the final one has weights for sampling too."""
        name = FINAL_NAME if final else f"step-{step.number:06d}"
        state_path = self._client.save_state(name).result().path
        sampler_path = self._client.save_weights_for_sampler(name).result().path if final else None
        record = CheckpointRecord(
            name=name,
            step=step.number,
            epoch=step.epoch,
            position=None if final else step.position,
            state_path=state_path,
            sampler_path=sampler_path,
            tokens=tokens,
        )
        records = [*self._folder.checkpoints(), record]
        kept = records[-self._keep :] if self._keep else records
        # Listed before anything is deleted: what the list names is there, whenever the run is killed.
        self._folder.write_checkpoints(kept)
        for old in records[: len(records) - len(kept)]:
            self._rest.delete_checkpoint_from_tinker_path(old.state_path).result()
        return record


def delete_unlisted(folder: RunFolder, rest: Any) -> None:
    """Delete what a killed run saved and did not list; only for a store that is this run's own."""
    listed = {path for record in folder.checkpoints() for path in (record.state_path, record.sampler_path)}
    found: list[str] = []
    while page := rest.list_user_checkpoints(limit=_PAGE, offset=len(found)).result().checkpoints:
        found += [checkpoint.tinker_path for checkpoint in page]
    for path in found:
        if path not in listed:
            rest.delete_checkpoint_from_tinker_path(path).result()

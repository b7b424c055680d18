"""Which rows each step trains on: units of rows (one row, or a pair), in a seeded order, with a place to go on from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datasets_io import BatchPosition, ShardReader, iter_batches, plan_batches
from renderers import Datum, OptionError

from .config import TrainConfig

__all__ = ["Step", "TrainingData", "name_rows"]

_ROWS_NAMED = 8


@dataclass(frozen=True)
class Step:
    """One optimizer step.

    Attributes:
        number: from 1.
        epoch: from 0.
        units: which units, int64.
        num_tokens: model input positions.
        position: where to go on after it.
        ends_epoch: whether it is its epoch's last.
    """

    number: int
    epoch: int
    units: npt.NDArray[np.int64]
    num_tokens: int
    position: BatchPosition
    ends_epoch: bool


class TrainingData:
    """The rows of a reader as units, and their order over the run.

    Args:
        reader: the rows.
        units: rows that belong together, by index; each row alone when None.
        config: seed, batch limits, epochs.

    Attributes:
        lengths: int64 (num_units,), model input positions.
        num_steps: of the whole run.

    Raises:
        OptionError: nothing to train on, or a unit is longer than `batch_tokens`.
    """

    def __init__(self, reader: ShardReader, units: Sequence[Sequence[int]] | None, config: TrainConfig) -> None:
        self.reader = reader
        self._units = units
        self._config = config
        lengths = reader.lengths.astype(np.int64)
        if units is not None:
            lengths = np.array([int(lengths[list(rows)].sum()) for rows in units], np.int64)
        self.lengths: npt.NDArray[np.int64] = lengths
        if not len(lengths):
            raise OptionError(f"{reader.path}: expected rows to train on; got none")
        limit = config.batch_tokens
        if limit is not None and lengths.max() > limit:
            longest = int(lengths.argmax())
            raise OptionError(
                f"batch_tokens: expected at least {lengths[longest]}, the length of "
                f"{name_rows(reader, self.rows(longest))}; got {limit}"
            )
        self.num_steps, self.num_epochs = self._count()

    def rows(self, unit: int) -> list[int]:
        """The rows of a unit."""
        return [unit] if self._units is None else list(self._units[unit])

    def datums(self, rows: Sequence[int]) -> list[Datum]:
        return [self.reader[row] for row in rows]

    def _epoch_steps(self, epoch: int) -> int:
        config = self._config
        if config.batch_tokens is None and config.batch_size is not None:
            return -(-len(self.lengths) // config.batch_size)
        return len(
            plan_batches(
                self.lengths,
                seed=config.seed,
                epoch=epoch,
                batch_size=config.batch_size,
                max_tokens=config.batch_tokens,
                shuffle=config.shuffle,
            )
        )

    def _count(self) -> tuple[int, int]:
        """Steps and epochs of the run."""
        config, steps, epoch = self._config, 0, 0
        epochs = config.epochs or (1 if config.max_steps is None else None)
        while epochs is None or epoch < epochs:
            steps += self._epoch_steps(epoch)
            epoch += 1
            if config.max_steps is not None and steps >= config.max_steps:
                return config.max_steps, epoch
        return steps, epoch

    def steps(self, done: int, start: BatchPosition | None) -> Iterator[Step]:
        """The steps after the first `done`, which end at `start`."""
        config, number = self._config, done
        for epoch in range(start.epoch if start else 0, self.num_epochs):
            in_epoch = self._epoch_steps(epoch)
            batches = iter_batches(
                self.lengths,
                seed=config.seed,
                epoch=epoch,
                batch_size=config.batch_size,
                max_tokens=config.batch_tokens,
                shuffle=config.shuffle,
                start=start if start is not None and start.epoch == epoch else None,
            )
            for batch in batches:
                if number == self.num_steps:
                    return
                number += 1
                ends = batch.next.batch == in_epoch
                yield Step(number, epoch, batch.indices, batch.num_tokens, batch.next, ends)


def name_rows(reader: ShardReader, rows: Sequence[int]) -> str:
    """`train.jsonl:17, train.jsonl:20 and 3 more`: where rows came from."""
    names: dict[str, None] = {}
    for row in rows:
        origin = reader.row(row).provenance
        line = "" if origin.line < 0 else f":{origin.line}"
        names[f"{origin.source or reader.path}{line}" if origin.source or line else f"row {row}"] = None
    shown = list(names)[:_ROWS_NAMED]
    more = len(names) - len(shown)
    return ", ".join(shown) + (f" and {more} more" if more else "")

"""Which rows train together, in which order, and where to go on.

The order of rows is a pure function of (seed, epoch, number of rows), and global batches are cut from it without
looking at how many ranks there are. Every rank then takes its share of *every* global batch (rows `rank`,
`rank + world_size`, … of the batch), so all ranks see equally many batches, collective calls line up, and a step
trains on the same rows whatever the world size; a share can be empty where a batch has fewer rows than ranks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field

from renderers import Datum, OptionError

__all__ = ["Batch", "BatchPlan", "BatchPosition", "iter_batches", "plan_batches", "row_order"]

Indices = npt.NDArray[np.int64]


class BatchPosition(BaseModel):
    """Where to go on: `batch` global batches of `epoch` are done. JSON by `model_dump()` or `model_dump_json()`.

    `plan` is a digest of all that decides the batches; a position is refused where it differs, as the remaining
    batches would be others. None is not checked.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    epoch: int = Field(ge=0)
    batch: int = Field(ge=0)
    plan: str | None = None


@runtime_checkable
class _HasLengths(Protocol):
    @property
    def lengths(self) -> npt.NDArray[Any]: ...
    def __getitem__(self, index: int, /) -> Datum: ...


@dataclass(frozen=True, slots=True)
class Batch:
    """One rank's share of a global batch.

    Attributes:
        indices: int64 (num_rows,), rows of the reader or of the lengths given; may be empty.
        num_tokens: model input positions in this share.
        global_rows: rows of the global batch, over all ranks.
        next: where to go on after this batch.
        rows: what to take datums from, None when only lengths were given.
    """

    indices: Indices
    num_tokens: int
    global_rows: int
    next: BatchPosition
    rows: _HasLengths | None = None

    def __len__(self) -> int:
        return len(self.indices)

    def datums(self) -> list[Datum]:
        """The rows themselves.

        Raises:
            OptionError: the batches were planned from lengths only.
        """
        if self.rows is None:
            raise OptionError("datums: expected batches over a ShardReader; these were planned from lengths")
        return [self.rows[i] for i in self.indices.tolist()]


@dataclass(frozen=True, slots=True)
class BatchPlan:
    """All global batches of one epoch.

    Attributes:
        order: int64, rows in training order.
        starts: int64 (num_batches + 1,), where in `order` each batch starts.
        digest: of all that decides the plan but the epoch.
        num_dropped: rows that `drop_last` leaves out of this epoch.
    """

    order: Indices
    starts: Indices
    digest: str
    num_dropped: int

    def __len__(self) -> int:
        return len(self.starts) - 1

    def __getitem__(self, batch: int) -> Indices:
        return self.order[self.starts[batch] : self.starts[batch + 1]]


def row_order(num_rows: int, seed: int, epoch: int) -> Indices:
    """A permutation of range(num_rows), int64; the same for ever for the same arguments.

    Rows are sorted by a hash of (seed, epoch, row) rather than shuffled by numpy, whose random streams may change
    between versions.
    """
    with np.errstate(over="ignore"):  # arithmetic modulo 2**64 is what the hash is made of
        key = _mix(_mix(np.array([seed % 2**64], np.uint64)) ^ np.uint64(epoch % 2**64))
        hashes = _mix(key + np.arange(num_rows, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    return np.argsort(hashes, kind="stable").astype(np.int64)


def plan_batches(
    lengths: npt.ArrayLike,
    *,
    seed: int,
    epoch: int,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    shuffle: bool = True,
    drop_last: bool = False,
) -> BatchPlan:
    """Cut one epoch into global batches.

    A batch is closed when it has `batch_size` rows, or when the next row would bring it above `max_tokens`.

    Args:
        lengths: model input positions of each row.
        seed, epoch: what the order is a function of.
        batch_size: most rows in a global batch, over all ranks.
        max_tokens: most positions in a global batch, over all ranks.
        shuffle: False keeps the rows' own order, in every epoch.
        drop_last: leave out the last batch when nothing closed it; `BatchPlan.num_dropped` counts its rows. It is
            kept otherwise, partial as it is.

    Raises:
        OptionError: neither limit given, one below 1, a negative epoch, or a row longer than `max_tokens`.
    """
    sizes = np.asarray(lengths, np.int64)
    _check_options(sizes, epoch, batch_size, max_tokens)
    order = row_order(len(sizes), seed, epoch) if shuffle else np.arange(len(sizes), dtype=np.int64)
    filled = np.cumsum(sizes[order])
    starts = [0]
    closed = True
    while starts[-1] < len(order):
        start = starts[-1]
        end = len(order) + 1 if batch_size is None else start + batch_size
        if max_tokens is not None:
            done = int(filled[start - 1]) if start else 0
            fitting = int(np.searchsorted(filled, done + max_tokens, side="right"))
            # Rows run out before the budget does: the batch is still open.
            end = min(end, fitting if fitting < len(order) else len(order) + int(filled[-1] - done < max_tokens))
        closed = end <= len(order)
        starts.append(min(end, len(order)))
    if drop_last and not closed:
        starts.pop()
    return BatchPlan(
        order=order[: starts[-1]],
        starts=np.array(starts, np.int64),
        digest=_digest(sizes, seed, batch_size, max_tokens, shuffle, drop_last),
        num_dropped=len(order) - starts[-1],
    )


def iter_batches(
    rows: _HasLengths | npt.NDArray[Any] | Sequence[int],
    *,
    seed: int,
    epoch: int,
    batch_size: int | None = None,
    max_tokens: int | None = None,
    shuffle: bool = True,
    rank: int = 0,
    world_size: int = 1,
    drop_last: bool = False,
    start: BatchPosition | None = None,
) -> Iterator[Batch]:
    """One rank's batches of one epoch, from `start` on; see `plan_batches` for the limits.

    Args:
        rows: a `ShardReader` (or anything with `lengths` that gives datums), or lengths only.
        rank, world_size: whose share of each global batch.
        start: a `Batch.next` of an earlier run; exactly the batches after it follow.

    Raises:
        OptionError: as `plan_batches`, at the call; not 0 <= rank < world_size; `start` is of another epoch, another
            plan, or past the end.
    """
    reader = rows if isinstance(rows, _HasLengths) else None
    lengths = np.asarray(reader.lengths if reader is not None else cast("Any", rows), np.int64)
    if not 0 <= rank < world_size:
        raise OptionError(f"rank: expected 0 <= rank < world_size; got rank {rank}, world_size {world_size}")
    plan = plan_batches(
        lengths,
        seed=seed,
        epoch=epoch,
        batch_size=batch_size,
        max_tokens=max_tokens,
        shuffle=shuffle,
        drop_last=drop_last,
    )
    first = _first_batch(start, plan, epoch)
    return _shares(plan, lengths, reader, range(first, len(plan)), epoch, slice(rank, None, world_size))


def _shares(
    plan: BatchPlan, lengths: Indices, reader: _HasLengths | None, batches: range, epoch: int, share: slice
) -> Iterator[Batch]:
    for batch in batches:
        rows = plan[batch]
        mine = rows[share]
        position = BatchPosition(epoch=epoch, batch=batch + 1, plan=plan.digest)
        yield Batch(mine, int(lengths[mine].sum()), len(rows), position, reader)


def _first_batch(start: BatchPosition | None, plan: BatchPlan, epoch: int) -> int:
    if start is None:
        return 0
    if start.epoch != epoch:
        raise OptionError(f"start.epoch: expected {epoch}; got {start.epoch}")
    if start.plan is not None and start.plan != plan.digest:
        raise OptionError(
            f"start.plan: expected {plan.digest}; got {start.plan}: seed, rows, limits, shuffle or drop_last changed"
        )
    if start.batch > len(plan):
        raise OptionError(f"start.batch: expected at most {len(plan)}; got {start.batch}")
    return start.batch


def _check_options(sizes: Indices, epoch: int, batch_size: int | None, max_tokens: int | None) -> None:
    if batch_size is None and max_tokens is None:
        raise OptionError("batch_size, max_tokens: expected one of them; got neither")
    for name, value in (("batch_size", batch_size), ("max_tokens", max_tokens)):
        if value is not None and value < 1:
            raise OptionError(f"{name}: expected at least 1; got {value}")
    if epoch < 0:
        raise OptionError(f"epoch: expected at least 0; got {epoch}")
    if max_tokens is not None and len(sizes) and sizes.max() > max_tokens:
        row = int(sizes.argmax())
        raise OptionError(f"max_tokens: expected at least {sizes[row]}, the length of row {row}; got {max_tokens}")


def _digest(sizes: Indices, *parameters: object) -> str:
    return hashlib.blake2b(sizes.tobytes() + repr(parameters).encode(), digest_size=8).hexdigest()


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """The finaliser of splitmix64: each input bit reaches every output bit."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))

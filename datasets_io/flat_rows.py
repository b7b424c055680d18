"""The rows of a block laid out flat, and what they lose on the way to examples."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import orjson

from renderers import Conversation, Reduction, RenderedBlock, shift_block

from .overlong import Loss
from .read import ParsedRow, Reject
from .windows import take_windows, trained_counts, whole_windows

__all__ = ["UNTRAINED", "Drop", "FlatRows", "without_unfit"]

UNTRAINED = "expected something to train on; got weights of 0 only"


class Drop(NamedTuple):
    """What an accepted row lost: a conversation, a turn or an example; `message` is None when it is not one turn."""

    source: str
    line: int
    message: int | None
    reason: str
    detail: str

    def to_json(self) -> bytes:
        """One line of `drops.jsonl`, without the line break."""
        detail = self.detail.encode("utf-8", "backslashreplace").decode("utf-8")
        return orjson.dumps({**self._asdict(), "detail": detail})


@dataclass(slots=True)
class FlatRows:
    """A block's rows with their conversations laid out flat.

    Attributes:
        row_of: int64 (num_conversations,), the row of each conversation.
        rejected: refused rows by number.
        drops: what rows lost, with the row's number.
    """

    rows: list[ParsedRow]
    conversations: list[Conversation]
    row_of: npt.NDArray[np.int64]
    rejected: dict[int, Reject] = field(default_factory=dict[int, Reject])
    drops: list[tuple[int, Drop]] = field(default_factory=list[tuple[int, Drop]])

    @classmethod
    def of(cls, rows: list[ParsedRow]) -> FlatRows:
        """Rows whose conversations are to be rendered."""
        conversations = [conversation for row in rows for conversation in row.conversations]
        counts = [len(row.conversations) for row in rows]
        return cls(rows, conversations, np.repeat(np.arange(len(rows)), counts))

    def drop(self, source: str, row: int, message: int | None, reason: str, detail: str) -> None:
        """Note what row number `row` loses."""
        self.drops.append((row, Drop(source, self.rows[row].line, message, reason, detail)))

    def lose(self, source: str, losses: Sequence[Loss]) -> None:
        """Note what a length policy left out."""
        for loss in losses:
            self.drop(source, int(self.row_of[loss.conversation]), loss.message, loss.reason, loss.detail)


def without_unfit(source: str, flat: FlatRows, rendered: RenderedBlock, reduction: Reduction) -> RenderedBlock:
    """The block without examples that train nothing or have no mean weight, and without halves of broken pairs."""
    untrained = trained_counts(rendered) == 0
    keep = ~untrained
    _lose_examples(source, flat, rendered, untrained, "no_trained_tokens", UNTRAINED)
    if reduction == "mean":
        weightless = keep & _without_mean(rendered)
        keep &= ~weightless
        _lose_examples(source, flat, rendered, weightless, "no_mean", "expected weights with a sum above 0")
    if len(flat.conversations) > len(flat.rows):
        broken = keep & _broken_pairs(flat, rendered, keep)
        keep &= ~broken
        _lose_examples(source, flat, rendered, broken, "pair_broken", "the other half of this pair gives no example")
    return rendered if keep.all() else take_windows(rendered, whole_windows(rendered, keep))


def _lose_examples(
    source: str, flat: FlatRows, rendered: RenderedBlock, lost: npt.NDArray[np.bool_], reason: str, detail: str
) -> None:
    for example in np.flatnonzero(lost).tolist():
        turn = int(rendered.turn[example])
        row = int(flat.row_of[rendered.conversation[example]])
        flat.drop(source, row, None if turn < 0 else turn, reason, detail)


def _without_mean(rendered: RenderedBlock) -> npt.NDArray[np.bool_]:
    """Examples whose weights, after the shift and summed as `mean_weights` does, sum to 0 or less."""
    _, _, weights, offsets = shift_block(rendered.tokens, rendered.weights, rendered.offsets)
    nonempty = np.diff(offsets) > 0
    sums = np.zeros(len(rendered), np.float64)
    if nonempty.any():
        sums[nonempty] = np.add.reduceat(weights, offsets[:-1][nonempty], dtype=np.float64)
    return sums <= 0


def _broken_pairs(flat: FlatRows, rendered: RenderedBlock, keep: npt.NDArray[np.bool_]) -> npt.NDArray[np.bool_]:
    """Examples of rows of which another conversation has no example left."""
    examples = np.bincount(rendered.conversation[keep], minlength=len(flat.conversations))
    lost = np.zeros(len(flat.rows), np.bool_)
    lost[flat.row_of[examples == 0]] = True
    return lost[flat.row_of[rendered.conversation]]

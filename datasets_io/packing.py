"""A packing plan: which rows share a sequence of at most `budget` positions, from lengths only."""

from __future__ import annotations

from dataclasses import dataclass
from heapq import heappop, heappush

import numpy as np
import numpy.typing as npt

from renderers import OptionError

__all__ = ["PackingPlan", "plan_packing"]


@dataclass(frozen=True, slots=True)
class PackingPlan:
    """Rows by bin.

    Attributes:
        bins: one int64 array of rows per bin, in the order in which they were placed.
        budget: positions a bin can hold.
        num_tokens: positions of all rows.
    """

    bins: list[npt.NDArray[np.int64]]
    budget: int
    num_tokens: int

    def __len__(self) -> int:
        return len(self.bins)

    @property
    def fill(self) -> float:
        """Share of all positions that are used, 0 to 1; 1 for an empty plan."""
        return self.num_tokens / (len(self.bins) * self.budget) if self.bins else 1.0


def plan_packing(lengths: npt.ArrayLike, budget: int) -> PackingPlan:
    """Best-fit decreasing: the longest row first, each into the fullest bin that still has room for it.

    Ties go to the earlier row and to the earlier bin. O(n log n) for n rows.

    Args:
        lengths: positions of each row, (n,).
        budget: most positions in a bin.

    Raises:
        OptionError: a budget below 1, a negative length, or a row longer than the budget.
    """
    sizes = np.asarray(lengths, np.int64)
    if budget < 1:
        raise OptionError(f"budget: expected at least 1; got {budget}")
    if len(sizes) and (sizes.max() > budget or sizes.min() < 0):
        row = int(sizes.argmax() if sizes.max() > budget else sizes.argmin())
        raise OptionError(f"lengths[{row}]: expected 0 to {budget}, the budget; got {sizes[row]}")
    order = np.argsort(-sizes, kind="stable")
    bins: list[list[int]] = []
    rooms = _Rooms(budget)
    for row, size in zip(order.tolist(), sizes[order].tolist(), strict=True):
        found = rooms.take(size)
        if found is None:
            found = (len(bins), budget)
            bins.append([])
        number, room = found
        bins[number].append(row)
        rooms.put(number, room - size)
    return PackingPlan([np.array(rows, np.int64) for rows in bins], budget, int(sizes.sum()))


class _Rooms:
    """Bins by the room they have left, as a complete binary tree over room sizes.

    `tree[leaf]` says whether any bin has exactly that room, an inner node whether any below it does; the smallest
    room of at least `size` is found by climbing from the leaf of `size` until there is something to the right.
    """

    def __init__(self, largest: int) -> None:
        self._leaves = 1 << largest.bit_length()
        self._tree = bytearray(2 * self._leaves)
        self._bins: dict[int, list[int]] = {}

    def put(self, number: int, room: int) -> None:
        waiting = self._bins.setdefault(room, [])
        heappush(waiting, number)
        if len(waiting) > 1:
            return
        node = self._leaves + room
        while node and not self._tree[node]:
            self._tree[node] = 1
            node >>= 1

    def take(self, size: int) -> tuple[int, int] | None:
        """Remove the first of the bins with the least room of at least `size`: (bin, room), None when there is none."""
        node = self._leaves + size
        while not self._tree[node]:
            # Up from a right child, or to the right neighbour; past the last leaf of a level there is nothing.
            while node & 1:
                node >>= 1
            if not node:
                return None
            node += 1
        while node < self._leaves:
            node = 2 * node + (not self._tree[2 * node])
        room = node - self._leaves
        waiting = self._bins[room]
        number = heappop(waiting)
        if not waiting:
            self._clear(node)
        return number, room

    def _clear(self, node: int) -> None:
        self._tree[node] = 0
        while node > 1 and not self._tree[node ^ 1]:
            node >>= 1
            self._tree[node] = 0

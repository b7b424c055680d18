"""The key/value memory: one pool of token rows per layer, handed out as contiguous, reference-counted extents.

Contiguous, because attention on a CPU reads an extent as a plain view; counted, because one prompt serves several
samples, and later requests that begin the same way. A sequence that outgrows its extent takes another one, so the pool
never has to move anything.
"""

from __future__ import annotations

from bisect import insort
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import InternalError
from trainer.engine import Decoder

__all__ = ["PAGE", "SLACK_ROWS", "Context", "Extent", "KvPool", "Span"]

# Extents start and end at multiples of this many tokens, so that holes stay usable.
PAGE = 16
# Attention reads pieces in whole multiples of this, beyond their end: so many more rows follow the last extent.
SLACK_ROWS = 32


def _pages(tokens: int) -> int:
    return -(-tokens // PAGE) * PAGE


class Extent:
    """Token rows start..start + capacity of the pool, held by `refs` owners."""

    __slots__ = ("capacity", "refs", "start")

    def __init__(self, start: int, capacity: int) -> None:
        self.start, self.capacity, self.refs = start, capacity, 1


@dataclass(frozen=True)
class Span:
    """The first `length` tokens of an extent, written and never changed again."""

    extent: Extent
    length: int


class KvPool:
    """Keys and values of `capacity` tokens.

    Attributes:
        keys, values: per layer (capacity + slack, Hk, d) of `dtype`.
        dtype: the base's.
        capacity: token rows, a multiple of `PAGE`.
        free: token rows that nobody holds.
    """

    def __init__(self, decoder: Decoder, capacity: int, dtype: torch.dtype, device: torch.device) -> None:
        self.capacity = capacity // PAGE * PAGE
        self.dtype = dtype
        rows = self.capacity + SLACK_ROWS
        shapes = [(rows, layer.num_kv_heads, layer.head_dim) for layer in decoder.layers]
        # zeros: what lies beyond a piece is masked, but must be a number
        self.keys: list[Tensor] = [torch.zeros(shape, dtype=self.dtype, device=device) for shape in shapes]
        self.values: list[Tensor] = [torch.zeros(shape, dtype=self.dtype, device=device) for shape in shapes]
        self.free = self.capacity
        self._holes: list[tuple[int, int]] = [(0, self.capacity)] if self.capacity else []

    def allocate(self, tokens: int, at_least: int | None = None) -> Extent | None:
        """A contiguous extent for `tokens`, or the largest there is for no less than `at_least`; None when neither."""
        wanted, least = _pages(tokens), _pages(tokens if at_least is None else at_least)
        fitting = next((i for i, (_, size) in enumerate(self._holes) if size >= wanted), None)
        if fitting is None:
            if not self._holes:
                return None
            fitting = max(range(len(self._holes)), key=lambda i: self._holes[i][1])
            wanted = self._holes[fitting][1]
            if wanted < least:
                return None
        start, size = self._holes.pop(fitting)
        if size > wanted:
            insort(self._holes, (start + wanted, size - wanted))
        self.free -= wanted
        return Extent(start, wanted)

    def share(self, extent: Extent) -> None:
        extent.refs += 1

    def release(self, extent: Extent) -> None:
        """One owner less; the last one gives the rows back."""
        if extent.refs < 1:
            raise InternalError(f"extent at {extent.start}: expected an owner; it has none")
        extent.refs -= 1
        if extent.refs == 0:
            self._give_back(extent.start, extent.capacity)

    def shrink(self, extent: Extent, tokens: int) -> None:
        """Gives back what lies beyond the first `tokens`."""
        kept = _pages(tokens)
        if kept < extent.capacity:
            self._give_back(extent.start + kept, extent.capacity - kept)
            extent.capacity = kept

    def extend(self, extent: Extent, tokens: int) -> bool:
        """Grows the extent in place by up to `tokens` when free rows follow it; False when none do."""
        end = extent.start + extent.capacity
        for i, (start, size) in enumerate(self._holes):
            if start == end:
                taken = min(size, _pages(tokens))
                self._holes[i : i + 1] = [(start + taken, size - taken)] if size > taken else []
                extent.capacity += taken
                self.free -= taken
                return True
        return False

    def _give_back(self, start: int, size: int) -> None:
        self.free += size
        merged: list[tuple[int, int]] = []
        insort(self._holes, (start, size))
        for hole_start, hole_size in self._holes:
            if merged and sum(merged[-1]) == hole_start:
                merged[-1] = (merged[-1][0], merged[-1][1] + hole_size)
            else:
                merged.append((hole_start, hole_size))
        self._holes = merged


class Context:
    """What one sequence has seen: shared spans, then tokens of its own.

    Attributes:
        spans: immutable, each holding a reference.
        own: where new tokens go, or None before the first one.
        own_length: tokens written there.
    """

    def __init__(self, pool: KvPool, spans: tuple[Span, ...] = (), own: Extent | None = None) -> None:
        self.pool, self.spans, self.own, self.own_length = pool, spans, own, 0

    @property
    def shared_length(self) -> int:
        return sum(span.length for span in self.spans)

    @property
    def length(self) -> int:
        """Tokens written so far."""
        return self.shared_length + self.own_length

    @property
    def room(self) -> int:
        return 0 if self.own is None else self.own.capacity - self.own_length

    def next_row(self) -> int:
        """The pool row of the next token; there must be room."""
        assert self.own is not None
        return self.own.start + self.own_length

    def pieces(self, extra: int = 0) -> list[tuple[int, int]]:
        """(first pool row, tokens) in order, the own tokens last, and `extra` more that are just being written."""
        pieces = [(span.extent.start, span.length) for span in self.spans]
        if self.own is not None and self.own_length + extra:
            pieces.append((self.own.start, self.own_length + extra))
        return pieces

    def grow(self, tokens: int) -> bool:
        """Room for at least one more token, and for `tokens` when they are there; False when the pool is full."""
        if self.own is not None and self.pool.extend(self.own, tokens):
            return True
        fresh = self.pool.allocate(tokens, at_least=1)
        if fresh is None:
            return False
        self.seal()
        self.own = fresh
        return True

    def seal(self) -> None:
        """The own tokens become a span, which others may share."""
        if self.own is None:
            return
        if self.own_length:
            self.spans = (*self.spans, Span(self.own, self.own_length))
        else:
            self.pool.release(self.own)
        self.own, self.own_length = None, 0

    def fork(self) -> Context:
        """Another sequence with the same past; both must be sealed before either writes."""
        assert self.own is None
        for span in self.spans:
            self.pool.share(span.extent)
        return Context(self.pool, self.spans)

    def release(self) -> None:
        for span in self.spans:
            self.pool.release(span.extent)
        if self.own is not None:
            self.pool.release(self.own)
        self.spans, self.own, self.own_length = (), None, 0

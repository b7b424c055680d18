"""Prompts that are already in the pool, found by adapter version and token prefix, given up least recently used first.

A prompt is indexed by a chained digest of each whole block of its tokens, so a lookup walks blocks until one is
unknown; the tokens themselves are compared before anything is shared, so a digest alone never decides.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from trainer.engine import AdapterWeights

from .kv_pool import PAGE, Context, KvPool, Span
from .snapshot import AdapterSnapshot, same_weights

__all__ = ["PrefixCache"]

Tokens = npt.NDArray[np.int32]
Key = tuple[str, int] | None


@dataclass(eq=False)
class _Entry:
    key: Key
    tokens: Tokens
    spans: tuple[Span, ...]
    digests: list[bytes] = field(repr=False)


class PrefixCache:
    """Sealed prompts of the pool.

    Args:
        pool: whose extents the entries hold.
        budget: most tokens that entries may add up to.
        boundary: longest sequence before the model's rotary table changes as a whole, or None; keys computed on one
            side of it are of no use on the other.
    """

    def __init__(self, pool: KvPool, budget: int, boundary: int | None = None) -> None:
        self.pool, self.budget, self.boundary = pool, budget, boundary
        self.tokens = 0
        self._entries: OrderedDict[int, _Entry] = OrderedDict()
        self._index: dict[bytes, _Entry] = {}
        self._weights: dict[tuple[str, int], AdapterWeights] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def find(self, snapshot: AdapterSnapshot | None, tokens: Tokens) -> Context:
        """The longest known beginning of `tokens`, shorter than `tokens` itself; it may be empty."""
        key = self._key(snapshot)
        if snapshot is not None and not self._computed_with(snapshot):  # an id used again for another adapter
            for entry in [e for e in self._entries.values() if e.key == key]:
                self._drop(entry)
        best: _Entry | None = None
        for digest in _digests((key, self._beyond(len(tokens))), tokens[:-1]):
            entry = self._index.get(digest)
            if entry is None:
                break
            best = entry
        if best is None:
            return Context(self.pool)
        limit = min(len(best.tokens), len(tokens) - 1)
        different = np.flatnonzero(best.tokens[:limit] != tokens[:limit])
        length = int(different[0]) if len(different) else limit
        self._entries.move_to_end(id(best))
        return Context(self.pool, self._cut(best.spans, length))

    def add(self, snapshot: AdapterSnapshot | None, tokens: Tokens, context: Context) -> None:
        """Keeps what `context` has written of `tokens`."""
        if snapshot is not None and not self._computed_with(snapshot):
            return
        key = self._key(snapshot)
        spans = [*context.spans]
        if context.own is not None and context.own_length:
            spans.append(Span(context.own, context.own_length))
        tokens = tokens[: context.length].copy()
        digests = _digests((key, self._beyond(len(tokens))), tokens)
        if not digests or len(tokens) > self.budget:
            return
        known = self._index.get(digests[-1])
        if known is not None and np.array_equal(known.tokens[: len(tokens)], tokens):  # it reaches at least as far
            self._entries.move_to_end(id(known))
            return
        for span in spans:
            self.pool.share(span.extent)
        entry = _Entry(key, tokens, tuple(spans), digests)
        self._entries[id(entry)] = entry
        self._index.update(dict.fromkeys(digests, entry))
        self.tokens += len(tokens)
        if snapshot is not None:
            self._weights[snapshot.key] = snapshot.weights
        while self.tokens > self.budget:
            self.evict()

    def evict(self) -> bool:
        """Gives up the entry used longest ago; False when there is none."""
        if not self._entries:
            return False
        self._drop(next(iter(self._entries.values())))
        return True

    def clear(self) -> None:
        while self.evict():
            pass

    def _beyond(self, length: int) -> bool:
        return self.boundary is not None and length > self.boundary

    def _key(self, snapshot: AdapterSnapshot | None) -> Key:
        return None if snapshot is None else snapshot.key

    def _computed_with(self, snapshot: AdapterSnapshot) -> bool:
        """Whether what is kept under the snapshot's key, if anything, comes from these very numbers."""
        known = self._weights.get(snapshot.key)
        return known is None or same_weights(known, snapshot.weights)

    def _drop(self, entry: _Entry) -> None:
        del self._entries[id(entry)]
        for digest in entry.digests:
            if self._index.get(digest) is entry:
                del self._index[digest]
        for span in entry.spans:
            self.pool.release(span.extent)
        self.tokens -= len(entry.tokens)
        if entry.key is not None and all(e.key != entry.key for e in self._entries.values()):
            self._weights.pop(entry.key, None)

    def _cut(self, spans: tuple[Span, ...], length: int) -> tuple[Span, ...]:
        """The first `length` tokens, with references of their own."""
        kept: list[Span] = []
        for span in spans:
            if length <= 0:
                break
            kept.append(Span(span.extent, min(span.length, length)))
            self.pool.share(span.extent)
            length -= span.length
        return tuple(kept)


def _digests(key: tuple[Key, bool], tokens: Tokens) -> list[bytes]:
    """One digest per whole block, each covering everything before it."""
    running = hashlib.blake2b(repr(key).encode(), digest_size=16)
    found: list[bytes] = []
    for start in range(0, len(tokens) - PAGE + 1, PAGE):
        running.update(tokens[start : start + PAGE].tobytes())
        found.append(running.digest())
    return found

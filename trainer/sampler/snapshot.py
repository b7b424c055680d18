"""Adapter weights to sample from: a copy that training never touches, and the name under which its cache is kept."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from trainer.engine import AdapterWeights, Engine

__all__ = ["AdapterSnapshot", "same_weights"]


@dataclass(frozen=True, eq=False)
class AdapterSnapshot:
    """One adapter at one version.

    Attributes:
        adapter_id: whose weights.
        weights: a copy (`Engine.snapshot`), never the live buffers.
    """

    adapter_id: str
    weights: AdapterWeights

    @property
    def key(self) -> tuple[str, int]:
        """What cached prompts are kept under."""
        return self.adapter_id, self.weights.version

    @classmethod
    def of(cls, engine: Engine, adapter_id: str) -> AdapterSnapshot:
        """The adapter as it is now."""
        return cls(adapter_id, engine.snapshot(adapter_id))


def same_weights(one: AdapterWeights, other: AdapterWeights) -> bool:
    """Whether two snapshots hold the same numbers."""
    if one is other:
        return True
    if one.parts.keys() != other.parts.keys():
        return False
    for key, part in one.parts.items():
        twin = other.parts[key]
        if part.scale != twin.scale or not torch.equal(part.a, twin.a):
            return False
        if not all(torch.equal(b, c) for b, c in zip(part.bs, twin.bs, strict=True)):
            return False
    return True

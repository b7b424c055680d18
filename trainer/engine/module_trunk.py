"""Any other architecture: the transformers module runs itself, with low-rank pairs inside its linear layers.

Packed: all sequences lie in one row, and an attention function registered with transformers keeps each inside its own
bounds. Per sequence: the module sees one sequence at a time, which is right for any causal model, recurrent ones too.
Expert banks that are not linear modules carry no pair; the log names what is left out.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionSpec, SequenceBounds, packed_attention
from .lora import Projection, Segment, Site, SiteKind, bias_of, lora_linear

__all__ = ["ModuleTrunk"]

logger = logging.getLogger(__name__)

_ATTENTION_NAME = "datumloom_packed"
_ATTN_WORDS = ("attn", "attention", "query", "key_value", "mixer")
_MLP_WORDS = ("mlp", "ffn", "feed_forward", "feedforward", "fc1", "fc2", "dense_h_to_4h", "dense_4h_to_h", "expert")


@dataclass
class _Running:
    """What the patched linear layers and the attention read while the module runs."""

    bounds: SequenceBounds | None = None
    segments: Sequence[Segment] = ()
    called: set[str] = field(default_factory=set[str])


_CURRENT = _Running()


@dataclass(frozen=True)
class ModuleTrunk:
    """A transformers trunk; see the module's docstring."""

    module: Any
    projections: tuple[Projection, ...]
    packed: bool
    running: _Running = field(default_factory=_Running)

    @classmethod
    def over(cls, module: Any, *, packed: bool) -> ModuleTrunk | str:
        """Patches the module's linear layers once; gives the reason when this path is impossible."""
        if packed and not _use_packed_attention(module):
            return f"{type(module).__name__} does not take a registered attention function"
        if not packed:
            module.set_attn_implementation("sdpa" if getattr(module, "_supports_sdpa", False) else "eager")
        known: tuple[_Running, tuple[Projection, ...]] | None = getattr(module, "_datumloom_lora", None)
        if known is None:
            running = _Running()
            known = (running, _patch_linears(module, running))
            module._datumloom_lora = known  # noqa: SLF001
        return cls(module, known[1], packed, known[0])

    def without_bypassed(self) -> ModuleTrunk:
        """Without the layers that the probe run never called (a kernel read their weights behind their backs): a pair
        there would train nothing."""
        called = tuple(p for p in self.projections if p.key in self.running.called)
        missed = [p.key for p in self.projections if p.key not in self.running.called]
        if missed:
            logger.warning("%s: no low-rank pair on %s: not called", type(self.module).__name__, ", ".join(missed[:8]))
        return replace(self, projections=called)

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        bounds: SequenceBounds,
        segments: Sequence[Segment],
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """(T,) tokens to (T, D); `checkpoint_layers` is not used on this path."""
        del checkpoint_layers
        if self.packed:
            return self._run(tokens, positions, bounds, segments)
        pieces: list[Tensor] = []
        start = 0
        for length in bounds.lengths:
            stop = start + length
            inside = [
                Segment(s.weights, max(s.start, start) - start, min(s.stop, stop) - start)
                for s in segments
                if s.start < stop and start < s.stop
            ]
            one = SequenceBounds.of([length], tokens.device)
            pieces.append(self._run(tokens[start:stop], positions[start:stop], one, inside))
            start = stop
        return torch.cat(pieces)

    def _run(self, tokens: Tensor, positions: Tensor, bounds: SequenceBounds, segments: Sequence[Segment]) -> Tensor:
        self.running.segments = segments
        _CURRENT.bounds = bounds
        try:
            extra = {"position_ids": positions.unsqueeze(0)} if self.packed else {}
            output = self.module.base_model(input_ids=tokens.unsqueeze(0), use_cache=False, **extra)
        finally:
            self.running.segments = ()
            _CURRENT.bounds = None
        # Some recurrent models keep a float32 residual stream; the head reads its own dtype.
        return output.last_hidden_state[0].to(self.module.get_output_embeddings().weight.dtype)


def _use_packed_attention(module: Any) -> bool:
    from transformers import AttentionInterface

    if not getattr(module, "_supports_attention_backend", False):
        return False
    AttentionInterface.register(_ATTENTION_NAME, _registered_attention)
    module.set_attn_implementation(_ATTENTION_NAME)
    return True


def _registered_attention(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    **_: Any,
) -> tuple[Tensor, None]:
    """transformers' calling convention: (1, H, T, d) in, (1, T, H, d) out."""
    del module, attention_mask
    bounds = _CURRENT.bounds
    assert bounds is not None, "the packed attention runs inside ModuleTrunk.hidden only"
    spec = AttentionSpec(query.shape[-1] ** -0.5 if scaling is None else scaling, sliding_window, softcap)
    q, k, v = (x[0].transpose(0, 1) for x in (query, key, value))
    return packed_attention(q, k, v, bounds, spec).unsqueeze(0), None


def _kind(name: str) -> SiteKind | None:
    """Which flag trains a linear layer, by the words of its path; the innermost word decides."""
    for word in reversed(name.lower().split(".")):
        if any(w in word for w in _MLP_WORDS):
            return "mlp"
        if any(w in word for w in _ATTN_WORDS):
            return "attn"
    return None


def _patch_linears(module: Any, running: _Running) -> tuple[Projection, ...]:
    from transformers.pytorch_utils import Conv1D

    projections: list[Projection] = []
    skipped: list[str] = []
    head = module.get_output_embeddings()
    for name, child in module.named_modules():
        if child is head or not isinstance(child, nn.Linear | Conv1D):
            continue
        kind = _kind(name)
        if kind is None:
            skipped.append(name)
            continue
        # Conv1D keeps (in, out)
        weight = child.weight.detach() if isinstance(child, nn.Linear) else child.weight.detach().T
        projection = Projection(name, kind, weight, bias_of(child), (Site(name, 0, weight.shape[0]),))
        projections.append(projection)
        child.forward = _patched(projection, running)
    if skipped:
        logger.warning("%s: no low-rank pair on %s", type(module).__name__, ", ".join(skipped[:8]))
    return tuple(projections)


def _patched(projection: Projection, running: _Running) -> Any:
    def forward(x: Tensor) -> Tensor:
        running.called.add(projection.key)
        flat = x.reshape(-1, x.shape[-1])
        return lora_linear(flat, projection, running.segments).view(*x.shape[:-1], -1)

    return forward

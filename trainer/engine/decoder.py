"""One decoder forward for Llama, Qwen2/3, Mistral, Phi-3, Gemma 1/2/3 shapes and their mixtures of experts.

Legend: T tokens of the packed batch, D hidden, Hq/Hk query/key heads, d head dimension.

The interface both the trainer and the sampler stand on:

    hidden = decoder(tokens, positions, attend, segments=segments)        # (T, D), after the final norm

* `tokens` int64 (T,): any mixture of sequences, or of pieces of sequences (a prefill chunk, one decode token per row).
* `positions` int64 (T,): each token's position in its own sequence, counted from 0.
* `attend(layer, q, k, v) -> out`: called once per layer with q (T, Hq, d) and k, v (T, Hk, d), already normed and
  rotated for their positions; gives (T, Hq, d). The decoder neither knows sequence bounds nor a cache: the caller does.
  Training: `packed_attend(bounds, decoder.attention)` (below). A sampler's callback writes k, v into its cache
  at (slot, position), then attends over the cache. `decoder.attention[layer]` is that layer's scale, window, softcap.
* `segments`: which adapter owns which rows (see `lora.Segment`); rows of no segment get the base alone. With
  `AdapterWeights` made without gradient buffers, under `torch.no_grad()`, nothing is kept for backward.
* `lengths` int64 (T,), optional: the whole length of each token's sequence. Only models whose rotary table depends on
  the sequence's length (`longrope`, `dynamic`) look at it; None means "as long as this token's position + 1".
* `checkpoint_layers`: that many first layers keep only their input and are computed again in backward.

Logits come from `head.Head`: `base.head.logits(hidden, segments)`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from .attention import AttentionSpec, Backend, SequenceBounds, packed_attention
from .layer_ops import gated, rms_norm, rotate
from .lora import Projection, Segment, lora_linear

__all__ = ["Attend", "Decoder", "DecoderLayer", "DenseMlp", "Mlp", "Norm", "packed_attend"]

Attend = Callable[[int, Tensor, Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Norm:
    """RMS norm with a frozen weight (already 1 + w where the family stores w)."""

    weight: Tensor
    eps: float

    def __call__(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class Mlp(Protocol):
    """The feed-forward half of a layer."""

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Every matrix of it that can carry a low-rank pair."""
        ...

    def __call__(self, x: Tensor, segments: Sequence[Segment]) -> Tensor:
        """(T, D) to (T, D)."""
        ...


@dataclass(frozen=True)
class DenseMlp:
    """down(activation(gate) * up)."""

    gate_up: Projection
    down: Projection
    activation: str

    @property
    def projections(self) -> tuple[Projection, ...]:
        return (self.gate_up, self.down)

    def __call__(self, x: Tensor, segments: Sequence[Segment]) -> Tensor:
        return lora_linear(gated(lora_linear(x, self.gate_up, segments), self.activation), self.down, segments)


@dataclass(frozen=True)
class DecoderLayer:
    """One layer's frozen weights and shape.

    Attributes:
        norm_attn, norm_mlp: before each half.
        norm_attn_out, norm_mlp_out: after each half, before the residual sum (Gemma 2 and 3), or None.
        qkv, out: fused projections of the attention.
        norm_q, norm_k: per-head norms (Qwen 3, Gemma 3), or None.
        rope: which of the decoder's rotary tables this layer reads.
    """

    norm_attn: Norm
    qkv: Projection
    norm_q: Norm | None
    norm_k: Norm | None
    out: Projection
    norm_attn_out: Norm | None
    norm_mlp: Norm
    mlp: Mlp
    norm_mlp_out: Norm | None
    num_heads: int
    num_kv_heads: int
    head_dim: int
    rope: str

    def forward(
        self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, segments: Sequence[Segment]
    ) -> Tensor:
        """(T, D) to (T, D)."""
        heads = [self.num_heads, self.num_kv_heads, self.num_kv_heads]
        qkv = lora_linear(self.norm_attn(x), self.qkv, segments).view(len(x), -1, self.head_dim)
        q, k, v = qkv.split(heads, dim=1)
        q = rotate(self.norm_q(q) if self.norm_q else q, cos, sin)
        k = rotate(self.norm_k(k) if self.norm_k else k, cos, sin)
        mixed = lora_linear(attend(index, q, k, v).reshape(len(x), -1), self.out, segments)
        x = x + (self.norm_attn_out(mixed) if self.norm_attn_out else mixed)
        y = self.mlp(self.norm_mlp(x), segments)
        return x + (self.norm_mlp_out(y) if self.norm_mlp_out else y)


RopeTables = Callable[[Tensor, Tensor | None], dict[str, tuple[Tensor, Tensor]]]


@dataclass(frozen=True)
class Decoder:
    """The whole trunk: embedding, layers, final norm. Call it as the module's docstring says.

    Attributes:
        embedding: (V, D).
        embedding_scale: factor on embeddings (Gemma), or None.
        rope: positions (T,), lengths -> table name -> cos, sin, each (T, 1, rotary/2) in the base's dtype.
        attention: per layer scale, window and softcap.
    """

    embedding: Tensor
    embedding_scale: float | None
    layers: tuple[DecoderLayer, ...]
    norm: Norm
    rope: RopeTables
    attention: tuple[AttentionSpec, ...]

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Every matrix that can carry a low-rank pair, layer by layer, without the head."""
        return tuple(p for layer in self.layers for p in (layer.qkv, layer.out, *layer.mlp.projections))

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        segments: Sequence[Segment] = (),
        lengths: Tensor | None = None,
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """Hidden states after the final norm, (T, D) in the base's dtype."""
        x = functional.embedding(tokens, self.embedding)
        if self.embedding_scale is not None:
            x = x * torch.tensor(self.embedding_scale, dtype=x.dtype, device=x.device)
        tables = self.rope(positions, lengths)
        for index, layer in enumerate(self.layers):
            arguments: tuple[Any, ...] = (index, x, *tables[layer.rope], attend, segments)
            if index < checkpoint_layers and torch.is_grad_enabled():
                x = checkpoint(layer.forward, *arguments, use_reentrant=False, preserve_rng_state=False)
            else:
                x = layer.forward(*arguments)
            assert isinstance(x, Tensor)
        return self.norm(x)


def packed_attend(bounds: SequenceBounds, specs: Sequence[AttentionSpec], backend: Backend = "auto") -> Attend:
    """The training callback: causal attention inside each sequence of the packed batch."""

    def attend(layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return packed_attention(q, k, v, bounds, specs[layer], backend)

    return attend

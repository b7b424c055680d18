"""The decoder once more over weights in oneDNN's own layout: for decode on a CPU, where few rows meet whole matrices.

A product of 1 to 64 rows with a frozen matrix spends most of its time bringing the matrix into the kernel's layout
(measured 1.4 to 2.4 times the time; at 1,000 rows still 1.05 times, so prefill reads the same copy). The copy costs the
base's size in memory once more, so it is made only where that is plentiful. The operators are private to torch: without
them, or when a probe disagrees, the plain weights serve.
"""

from __future__ import annotations

import logging
from dataclasses import replace

import torch
from torch import Tensor

from trainer.engine import BaseModel, Decoder, DecoderLayer, DenseMlp, Head, Projection, available_bytes

__all__ = ["pack_for_decode"]

logger = logging.getLogger(__name__)

_ROWS = 16  # the number of rows that the layout is made for; any other number works too
_MEMORY_SHARE = 0.5


def pack_for_decode(base: BaseModel, prepack: bool | None = None) -> tuple[Decoder, Head]:
    """The base's decoder and head, prepacked where it pays.

    Args:
        base: a base with a decoder.
        prepack: True or False decides; None packs on a CPU with memory to spare.
    """
    assert base.decoder is not None
    if base.device.type != "cpu" or base.dtype not in (torch.float32, torch.bfloat16):
        prepack = False
    if any(p.weight.is_meta for p in base.projections):  # a sharded base: whole matrices are nowhere
        prepack = False
    if prepack is None:
        size = sum(p.weight.numel() * p.weight.element_size() for p in base.projections)
        prepack = size < available_bytes(base.device) * _MEMORY_SHARE
    if not prepack or not _works(base.dtype):
        return base.decoder, base.head
    layers = tuple(_packed_layer(layer) for layer in base.decoder.layers)
    return replace(base.decoder, layers=layers), replace(base.head, projection=_packed(base.head.projection))


def _packed_layer(layer: DecoderLayer) -> DecoderLayer:
    mlp = layer.mlp
    if isinstance(mlp, DenseMlp):  # experts see few rows each, by index: they stay as they are
        mlp = replace(mlp, gate_up=_packed(mlp.gate_up), down=_packed(mlp.down))
    return replace(layer, qkv=_packed(layer.qkv), out=_packed(layer.out), mlp=mlp)


def _packed(projection: Projection) -> Projection:
    return replace(projection, weight=_reorder(projection.weight))


def _reorder(weight: Tensor) -> Tensor:
    return torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), _ROWS)  # noqa: SLF001


def _works(dtype: torch.dtype) -> bool:
    """Whether a probe's product is that of the plain weight."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(48, 32, generator=generator).to(dtype)
    x = torch.randn(3, 32, generator=generator).to(dtype)
    try:
        found = torch.ops.mkldnn._linear_pointwise(x, _reorder(weight), None, "none", [], "")  # noqa: SLF001
    except (AttributeError, RuntimeError, TypeError, NotImplementedError) as error:
        logger.info("decode runs on plain weights: %s", error)
        return False
    return bool(torch.allclose(found.float(), (x @ weight.T).float(), rtol=1e-2, atol=1e-3))

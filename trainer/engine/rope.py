"""Rotary tables for a packed batch, computed by the transformers module's own rotary embedding.

Legend: T tokens, r rotary dimensions of a head.

Most variants depend on the position alone. `dynamic` and `longrope` also depend on the whole sequence's length; there,
sequences are grouped by what their length selects, so that a packed batch equals each sequence alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["rope_tables"]

Table = tuple[Tensor, Tensor]
_LENGTH_DEPENDENT = ("dynamic", "longrope")


def rope_tables(rotary: Any, config: Any) -> Callable[[Tensor, Tensor | None], dict[str, Table]]:
    """A function (positions (T,), lengths (T,) or None) -> {layer type: (cos, sin)}, each (T, 1, r/2).

    The dict answers every layer type of the model (`default` where there is only one table).
    """
    parameters: dict[str, Any] = config.rope_parameters
    nested = isinstance(next(iter(parameters.values())), dict)
    layer_types = sorted(set(getattr(config, "layer_types", None) or ())) or ["default"]
    probe = torch.empty((), dtype=config.dtype or torch.float32)

    def one(positions: Tensor, lengths: Tensor | None, layer_type: str | None) -> Table:
        kind = parameters[layer_type] if nested and layer_type else parameters
        dtype_probe = probe.to(positions.device)
        if kind["rope_type"] in _LENGTH_DEPENDENT:
            original = int(kind.get("original_max_position_embeddings") or config.max_position_embeddings)
            return _by_length(rotary, dtype_probe, positions, lengths, original, every=kind["rope_type"] == "dynamic")
        return _halves(rotary, dtype_probe, positions, layer_type if nested else None)

    def tables(positions: Tensor, lengths: Tensor | None) -> dict[str, Table]:
        if nested:
            return {name: one(positions, lengths, name) for name in layer_types}
        table = one(positions, lengths, None)
        return dict.fromkeys([*layer_types, "default"], table)

    return tables


def _halves(rotary: Any, probe: Tensor, positions: Tensor, layer_type: str | None) -> Table:
    extra = {} if layer_type is None else {"layer_type": layer_type}
    cos, sin = rotary(probe, positions.unsqueeze(0), **extra)
    half = cos.shape[-1] // 2
    return cos[0, :, None, :half].contiguous(), sin[0, :, None, :half].contiguous()


def _by_length(
    rotary: Any, probe: Tensor, positions: Tensor, lengths: Tensor | None, original: int, *, every: bool
) -> Table:
    """`every`: each length above `original` has a table of its own; else they share one."""
    if lengths is None:
        lengths = positions + 1
    group = torch.where(lengths > original, lengths if every else original + 1, original)
    cos = sin = None
    for length in group.unique().tolist():
        rows = (group == length).nonzero().squeeze(-1)
        # The module reads the length off the largest position and remembers earlier ones: tell it afresh each time.
        rotary.max_seq_len_cached = rotary.original_max_seq_len
        asked = torch.cat([positions[rows], positions.new_tensor([length - 1])])
        part_cos, part_sin = _halves(rotary, probe, asked, None)
        if cos is None or sin is None:
            cos = part_cos.new_empty((len(positions), *part_cos.shape[1:]))
            sin = torch.empty_like(cos)
        cos[rows], sin[rows] = part_cos[:-1], part_sin[:-1]
    assert cos is not None
    assert sin is not None
    return cos, sin

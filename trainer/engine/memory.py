"""How much a pass may hold: activation checkpointing and pass size follow from a memory budget, not from a flag.

The estimate counts what backward keeps per token and layer, in the base's dtype:
two norms' inputs and outputs (4 D), q, k, v before and after rotation, the attention's output, [gate; up] and their
product. A checkpointed layer keeps its input (D) alone.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import torch

from .base_model import BaseModel
from .decoder import DecoderLayer
from .moe import MoeMlp

__all__ = ["MemoryPlan", "available_bytes", "total_bytes"]

_CUDA_SHARE = 0.8
_HOST_SHARE = 0.5
_SLACK = 1.25  # allocator rounding, low-rank z, log-sum-exp or probabilities of the attention
_DEFAULT_TOKENS = {"cuda": 16384, "cpu": 4096}


def _meminfo(name: str) -> int:
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/meminfo").read_text("utf-8"))
    assert found is not None, name
    return int(found[1]) * 1024


def total_bytes(device: torch.device) -> int:
    """What activations may take at most on such a device; the same in every run."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory * _CUDA_SHARE)
    return int(_meminfo("MemTotal") * _HOST_SHARE)


def available_bytes(device: torch.device) -> int:
    """What activations may take on this device now."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int((free + cached) * _CUDA_SHARE)
    return int(_meminfo("MemAvailable") * _HOST_SHARE)


def _layer_bytes(layer: DecoderLayer, hidden: int, element: int) -> int:
    """Bytes per token that one layer keeps for backward."""
    q, k = layer.num_heads * layer.head_dim, layer.num_kv_heads * layer.head_dim
    mlp = layer.mlp
    inner = mlp.projections[1].in_features * (mlp.top_k if isinstance(mlp, MoeMlp) else 1)
    kept = 4 * hidden + 3 * q + 3 * k + 3 * inner
    if isinstance(mlp, MoeMlp):  # every expert's input and output is a copy
        kept += 2 * hidden * mlp.top_k
    return int(kept * element * _SLACK)


@dataclass(frozen=True)
class MemoryPlan:
    """What one backward pass may look like on this base.

    Attributes:
        budget: bytes for activations.
        layer: bytes per token of one layer kept whole.
        thin: bytes per token of one layer checkpointed.
        num_layers: of the decoder; 0 on the module paths, which do not checkpoint.
        tokens: most tokens per pass.
    """

    budget: int
    layer: int
    thin: int
    num_layers: int
    tokens: int

    @classmethod
    def of(cls, base: BaseModel, tokens_per_pass: int | None, memory_bytes: int | None) -> MemoryPlan:
        """Args left None come from the device.

        How many tokens share a pass shows in the last bits of a sum, so it follows from the device's size, not from
        what happens to be free; checkpointing changes no bit, so it follows from what is free now.
        """
        budget = available_bytes(base.device) if memory_bytes is None else memory_bytes
        size = total_bytes(base.device) if memory_bytes is None else memory_bytes
        tokens = tokens_per_pass or _DEFAULT_TOKENS.get(base.device.type, 4096)
        hidden = base.head.projection.in_features
        element = base.dtype.itemsize
        if base.decoder is None:
            return cls(budget, 0, 0, 0, tokens)
        layers = base.decoder.layers
        layer = max(_layer_bytes(x, hidden, element) for x in layers)
        thin = hidden * element
        # every layer checkpointed: all inputs, and one layer at work
        most = size // (thin * len(layers) + layer)
        return cls(budget, layer, thin, len(layers), max(1, min(tokens, most)))

    def checkpoint_layers(self, num_tokens: int) -> int:
        """How many layers must be computed again in backward so that this pass fits."""
        if self.num_layers == 0 or num_tokens * self.layer * self.num_layers <= self.budget:
            return 0
        spare = self.budget - num_tokens * (self.thin * self.num_layers + self.layer)
        whole = max(0, spare) // (num_tokens * (self.layer - self.thin))
        return max(0, self.num_layers - int(whole))

"""The torch side of training: one frozen base, many adapters, packed batches.

Importing this imports torch, so everything above imports it inside functions.

    base = BaseModel.load("path/or/hub-id", dtype="bfloat16", device="cuda")
    engine = Engine(base)
    adapter_id = engine.create_adapter(LoraConfig(rank=16, seed=0))
    engine.forward_backward(adapter_id, data, "cross_entropy")
    engine.optim_step(adapter_id, AdamParams(learning_rate=1e-4))
"""

from __future__ import annotations

import importlib.util

from renderers import MissingExtraError

for _library in ("torch", "transformers"):
    if importlib.util.find_spec(_library) is None:
        raise MissingExtraError(_library, "train")

from .adapters import Adapter, AdapterLayout  # noqa: E402
from .attention import AttentionSpec, SequenceBounds, packed_attention  # noqa: E402
from .base_model import BaseModel  # noqa: E402
from .decoder import Attend, Decoder, DecoderLayer, DenseMlp, packed_attend  # noqa: E402
from .engine import Engine  # noqa: E402
from .following import serve_requests  # noqa: E402
from .group import GroupEngine  # noqa: E402
from .head import Head  # noqa: E402
from .host_memory import keep_freed_memory  # noqa: E402
from .logprobs import target_logprobs  # noqa: E402
from .lora import AdapterWeights, Projection, Segment  # noqa: E402
from .losses import LOSSES, Loss, LossInputs, register_loss  # noqa: E402
from .memory import available_bytes  # noqa: E402
from .opening import open_engine  # noqa: E402
from .parallel import LostRankError, RankError, World  # noqa: E402
from .requests import Request  # noqa: E402

__all__ = [
    "LOSSES",
    "Adapter",
    "AdapterLayout",
    "AdapterWeights",
    "Attend",
    "AttentionSpec",
    "BaseModel",
    "Decoder",
    "DecoderLayer",
    "DenseMlp",
    "Engine",
    "GroupEngine",
    "Head",
    "Loss",
    "LossInputs",
    "LostRankError",
    "Projection",
    "RankError",
    "Request",
    "Segment",
    "SequenceBounds",
    "World",
    "available_bytes",
    "keep_freed_memory",
    "open_engine",
    "packed_attend",
    "packed_attention",
    "register_loss",
    "serve_requests",
    "target_logprobs",
]

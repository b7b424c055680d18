"""Datums become gradients and samples, behind the Tinker protocol.

    import trainer
    from trainer import types

    client = trainer.ServiceClient()
    training = client.create_lora_training_client("path/or/hub-id", rank=16)
    training.forward_backward(data, "cross_entropy")
    training.optim_step(types.AdamParams(learning_rate=1e-4)).result()

Code written for the official SDK runs with `import trainer as tinker`. Importing this imports no torch.
"""

from __future__ import annotations

from renderers import Datum, EncodedTextChunk, ModelInput, TensorData

from . import types
from .clients import APIFuture, RestClient, SamplingClient, ServiceClient, TrainingClient, connect
from .protocol import (
    AdamParams,
    ForwardBackwardOutput,
    LoraConfig,
    NotFoundError,
    RequestErrorCategory,
    RequestFailedError,
    RequestRefusedError,
    SampledSequence,
    SampleResponse,
    SamplingParams,
)

__all__ = [
    "APIFuture",
    "AdamParams",
    "Datum",
    "EncodedTextChunk",
    "ForwardBackwardOutput",
    "LoraConfig",
    "ModelInput",
    "NotFoundError",
    "RequestErrorCategory",
    "RequestFailedError",
    "RequestRefusedError",
    "RestClient",
    "SampleResponse",
    "SampledSequence",
    "SamplingClient",
    "SamplingParams",
    "ServiceClient",
    "TensorData",
    "TrainingClient",
    "connect",
    "types",
]

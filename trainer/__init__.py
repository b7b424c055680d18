"""Datums become gradients and samples, behind the Tinker protocol.

    import trainer
    from trainer import types

    client = trainer.ServiceClient()
    training = client.create_lora_training_client("path/or/hub-id", rank=16)
    training.forward_backward(data, "cross_entropy")
    training.optim_step(types.AdamParams(learning_rate=1e-4)).result()

Code written for the official SDK runs with `import trainer as tinker`. Importing this imports no torch, and names are
imported when first used: asking for help on the command line must not load numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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

_MODULES = {
    **dict.fromkeys(("Datum", "EncodedTextChunk", "ModelInput", "TensorData"), ".types"),
    **dict.fromkeys(
        ("APIFuture", "RestClient", "SamplingClient", "ServiceClient", "TrainingClient", "connect"), ".clients"
    ),
}
"""Where a name lives, if not in `.protocol`."""

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


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name == "types":
        return importlib.import_module(".types", __name__)
    module = importlib.import_module(_MODULES.get(name, ".protocol"), __name__)
    value = globals()[name] = getattr(module, name)
    return value


def __dir__() -> list[str]:
    return __all__

"""The one place that knows whether a run talks to this process or, by the official SDK, to a server."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from renderers import Datum, MissingExtraError, ModelInput, OptionError
from trainer.clients import connect
from trainer.protocol import AdamParams, LoraConfig, SamplingParams

from .config import TrainConfig

__all__ = ["Wire", "open_service", "open_wire"]


@dataclass(frozen=True)
class Wire:
    """Our values as the client's own: the same objects in process, the SDK's types for its client.

    Attributes:
        data: datums.
        prompt: a model input.
        adam_params, sampling_params: made from keyword arguments.
    """

    data: Callable[[Sequence[Datum]], list[Any]]
    prompt: Callable[[ModelInput], Any]
    adam_params: Callable[..., Any]
    sampling_params: Callable[..., Any]


def open_wire(base_url: str | None) -> Wire:
    """`MissingExtraError` when there is a `base_url` and the SDK is not installed."""
    if base_url is None:
        return Wire(list, _same, AdamParams, SamplingParams)
    try:
        from tinker import types  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("tinker", "remote") from None
    sdk: Any = types
    return Wire(
        lambda data: [datum.to_tinker() for datum in data],
        lambda prompt: Datum(prompt).to_tinker().model_input,
        sdk.AdamParams,
        sdk.SamplingParams,
    )


def open_service(config: TrainConfig, checkpoint_dir: Path) -> AbstractContextManager[Any]:
    """A `ServiceClient` for this run, to be used as a context.

    Raises:
        OptionError: something that the server decides is configured otherwise.
    """
    if config.base_url is None:
        return connect(
            dtype=None if config.dtype == "auto" else config.dtype,
            device=None if config.device == "auto" else config.device,
            checkpoint_dir=checkpoint_dir,
            alpha=config.lora.alpha,
            shard_base=config.shard_base,
        )
    for name, value, own in (
        ("lora.alpha", config.lora.alpha, LoraConfig.alpha),
        ("dtype", config.dtype, "auto"),
        ("device", config.device, "auto"),
        ("shard_base", config.shard_base, None),
    ):
        if value != own:
            raise OptionError(f"{name}: expected {own}, as the server at base_url decides it; got {value}")
    return connect(config.base_url)


def _same(prompt: ModelInput) -> ModelInput:
    return prompt

"""Small values of the protocol, by the SDK's field names: what an adapter is, how it steps, what comes back.

Each checks itself when made, so that the engine behind may trust it.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from renderers import OptionError, TensorData

__all__ = [
    "AdamParams",
    "ForwardBackwardOutput",
    "LoraConfig",
    "LossFnConfig",
    "LossFnOutput",
    "OptimStepResponse",
    "RequestErrorCategory",
]

LossFnConfig = Mapping[str, float | str]
LossFnOutput = dict[str, TensorData]


class RequestErrorCategory(StrEnum):
    """Whose fault a failed request is, as the wire spells it."""

    Unknown = "unknown"
    Server = "server"
    User = "user"


def _number(field_name: str, value: Any, low: float, high: float, *, open_high: bool = False) -> float:
    """`value` as a float inside [low, high] (or [low, high)); `OptionError` otherwise."""
    right = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    if not right or not (low <= value < high if open_high else low <= value <= high):
        bracket = ")" if open_high or math.isinf(high) else "]"
        raise OptionError(f"{field_name}: expected a number in [{low}, {high}{bracket}; got {value!r}")
    return float(value)


@dataclass(frozen=True)
class LoraConfig:
    """What an adapter trains.

    Attributes:
        rank: inner dimension of every low-rank pair, at least 1.
        seed: seeds A; None draws one from the system.
        train_unembed: whether the head gets a pair.
        train_mlp: whether the MLP matrices (experts included) get pairs.
        train_attn: whether the attention matrices get pairs.
        alpha: numerator of the scale `alpha / rank`; not on the wire, 32 as the hosted service is understood to use.

    Raises:
        OptionError: a value is impossible, or nothing would be trained.
    """

    rank: int = 32
    seed: int | None = None
    train_unembed: bool = True
    train_mlp: bool = True
    train_attn: bool = True
    alpha: float = 32.0

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or isinstance(self.rank, bool) or self.rank < 1:
            raise OptionError(f"lora_config.rank: expected an integer of at least 1; got {self.rank!r}")
        if self.seed is not None and (not isinstance(self.seed, int) or isinstance(self.seed, bool)):
            raise OptionError(f"lora_config.seed: expected an integer or None; got {self.seed!r}")
        for name in ("train_unembed", "train_mlp", "train_attn"):
            if not isinstance(getattr(self, name), bool):
                raise OptionError(f"lora_config.{name}: expected true or false; got {getattr(self, name)!r}")
        if not (self.train_unembed or self.train_mlp or self.train_attn):
            raise OptionError("lora_config: expected at least one of train_unembed, train_mlp, train_attn; got none")
        _number("lora_config.alpha", self.alpha, 0.0, math.inf)

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


@dataclass(frozen=True)
class AdamParams:
    """One AdamW step's hyperparameters; every step may bring others.

    Raises:
        OptionError: a value is impossible.
    """

    learning_rate: float = 1e-4
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-12
    weight_decay: float = 0.0
    grad_clip_norm: float = 0.0

    def __post_init__(self) -> None:
        for name in ("learning_rate", "eps", "weight_decay", "grad_clip_norm"):
            _number(f"adam_params.{name}", getattr(self, name), 0.0, math.inf)
        for name in ("beta1", "beta2"):
            _number(f"adam_params.{name}", getattr(self, name), 0.0, 1.0, open_high=True)


@dataclass(frozen=True)
class ForwardBackwardOutput:
    """What `forward` and `forward_backward` give.

    Attributes:
        loss_fn_output_type: free text naming the record's kind.
        loss_fn_outputs: one dict per datum, in the request's order; `logprobs` float32 shaped as `target_tokens`.
        metrics: keys `name:reducer`, such as `loss:sum`.
    """

    loss_fn_output_type: str
    loss_fn_outputs: list[LossFnOutput]
    metrics: dict[str, float] = field(default_factory=dict[str, float])


@dataclass(frozen=True)
class OptimStepResponse:
    """What `optim_step` gives: `grad_norm` (before clipping), `update_norm`, `learning_rate`, `step`."""

    metrics: dict[str, float] | None = None

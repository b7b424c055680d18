"""The losses: per-token formulas over target logprobs. Sums, never means; the caller's weights carry any mean.

Each is `loss(logprobs, inputs, config) -> per-token loss` with lp = log p(target) of the current weights, q the
sampler's logprobs, A the advantages, r = exp(lp - q). A new loss is one function under `register_loss`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import OptionError

__all__ = ["LOSSES", "Loss", "LossInputs", "find_loss", "register_loss"]

LossFunction = Callable[[Tensor, "LossInputs", Mapping[str, float]], Tensor]


@dataclass(frozen=True)
class LossInputs:
    """What a loss reads beside the logprobs, for the same tokens.

    Attributes:
        tensors: by protocol name, each float32 of the logprobs' shape; optional ones may be absent.
        sequence: int64, which datum each token belongs to, counted from 0.
        num_sequences: how many datums there are.
    """

    tensors: Mapping[str, Tensor]
    sequence: Tensor
    num_sequences: int

    def __getitem__(self, name: str) -> Tensor:
        return self.tensors[name]

    def get(self, name: str) -> Tensor | None:
        return self.tensors.get(name)

    def rows(self, start: int, stop: int) -> LossInputs:
        """The same for tokens start..stop."""
        tensors = {name: value[start:stop] for name, value in self.tensors.items()}
        return LossInputs(tensors, self.sequence[start:stop], self.num_sequences)


@dataclass(frozen=True)
class Loss:
    """A registered loss.

    Attributes:
        function: the formula.
        required, optional: names of `loss_fn_inputs` beside `target_tokens`.
        config: known config keys with their defaults; None marks a key that the caller must give.
        per_token: each token's loss depends on that token's logprob alone, so gradients can be taken chunk by chunk.
        multi_target: takes (N, K) targets.
        silent_at_zero: the input whose zeros mean "no loss and no gradient here", or None when there is no such input.
    """

    name: str
    function: LossFunction
    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    config: Mapping[str, float | None] | None = None
    per_token: bool = True
    multi_target: bool = False
    silent_at_zero: str | None = None

    def settings(self, given: Mapping[str, float | str] | None) -> dict[str, float]:
        """Defaults filled in; `OptionError` for an unknown key, a value that is no number, a missing key."""
        known = dict(self.config or {})
        for key, value in (given or {}).items():
            if key not in known:
                listed = ", ".join(sorted(known)) or "no keys"
                raise OptionError(f"loss_fn_config.{key}: expected {listed} for {self.name}; got {key!r}")
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise OptionError(f"loss_fn_config.{key}: expected a number; got {value!r}")
            known[key] = float(value)
        settings = {key: value for key, value in known.items() if value is not None}
        missing = sorted(set(known) - set(settings))
        if missing:
            raise OptionError(f"loss_fn_config.{missing[0]}: {self.name} expects a number; got none")
        low, high = settings.get("clip_low_threshold"), settings.get("clip_high_threshold")
        if low is not None and high is not None and low > high:
            raise OptionError(f"loss_fn_config.clip_low_threshold: expected at most {high}; got {low}")
        return settings


LOSSES: dict[str, Loss] = {}


def register_loss(
    name: str,
    *,
    required: tuple[str, ...],
    optional: tuple[str, ...] = (),
    config: Mapping[str, float | None] | None = None,
    per_token: bool = True,
    multi_target: bool = False,
    silent_at_zero: str | None = None,
) -> Callable[[LossFunction], LossFunction]:
    """Adds a loss under `name`; the arguments are `Loss`'s.

    Raises:
        OptionError: the name is taken.
    """

    def register(function: LossFunction) -> LossFunction:
        if name in LOSSES:
            raise OptionError(f"loss: expected a name that is free; {name!r} is registered")
        LOSSES[name] = Loss(name, function, required, optional, config, per_token, multi_target, silent_at_zero)
        return function

    return register


def find_loss(name: str) -> Loss:
    """The loss called `name`; `OptionError` when there is none."""
    if name not in LOSSES:
        raise OptionError(f"loss_fn: expected one of {', '.join(sorted(LOSSES))}; got {name!r}")
    return LOSSES[name]


_CLIPS = ("clip_low_threshold", "clip_high_threshold")


def _clipped(ratio: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """The ratio inside its thresholds: per token where the datum brings them, else the config's."""
    low, high = (inputs.get(name) for name in _CLIPS)
    lowest = low if low is not None else torch.full_like(ratio, config["clip_low_threshold"])
    highest = high if high is not None else torch.full_like(ratio, config["clip_high_threshold"])
    return ratio.clamp(lowest, highest)


@register_loss("cross_entropy", required=("weights",), multi_target=True, silent_at_zero="weights")
def cross_entropy(logprobs: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """-w lp; any float is a weight, so d loss / d lp is whatever the caller wants it to be."""
    del config
    return -inputs["weights"] * logprobs


@register_loss("importance_sampling", required=("logprobs", "advantages"), silent_at_zero="advantages")
def importance_sampling(logprobs: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """-r A, never clipped."""
    del config
    return -torch.exp(logprobs - inputs["logprobs"]) * inputs["advantages"]


@register_loss(
    "ppo",
    required=("logprobs", "advantages"),
    optional=_CLIPS,
    config={"clip_low_threshold": 0.8, "clip_high_threshold": 1.2},
    silent_at_zero="advantages",
)
def ppo(logprobs: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """-min(r A, clip(r) A)."""
    ratio = torch.exp(logprobs - inputs["logprobs"])
    advantages = inputs["advantages"]
    return -torch.minimum(ratio * advantages, _clipped(ratio, inputs, config) * advantages)


@register_loss(
    "cispo",
    required=("logprobs", "advantages"),
    optional=_CLIPS,
    config={"clip_low_threshold": 0.0, "clip_high_threshold": 4.0},
    silent_at_zero="advantages",
)
def cispo(logprobs: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """-sg(clip(r)) lp A."""
    ratio = torch.exp(logprobs.detach() - inputs["logprobs"])
    return -_clipped(ratio, inputs, config) * logprobs * inputs["advantages"]


@register_loss("dro", required=("logprobs", "advantages"), config={"beta": None})
def dro(logprobs: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """-(lp A - beta/2 (lp - q)^2); `beta` has no published default, so it must be given."""
    gap = logprobs - inputs["logprobs"]
    return -(logprobs * inputs["advantages"] - 0.5 * config["beta"] * gap * gap)


@register_loss(
    "gspo",
    required=("logprobs", "advantages", "sequence_ratio_mask"),
    optional=_CLIPS,
    config={"clip_low_threshold": 1 - 3e-4, "clip_high_threshold": 1 + 4e-4},
    per_token=False,
)
def gspo(logprobs: Tensor, inputs: LossInputs, config: Mapping[str, float]) -> Tensor:
    """-min(s_t A, clip(s_t) A), s = exp(mean of lp - q where the mask is not 0), s_t = s exp(lp - sg(lp)).

    The default thresholds are the method's published ones.
    """
    counted = inputs["sequence_ratio_mask"].ne(0).to(logprobs.dtype)
    gap = (logprobs.detach() - inputs["logprobs"]) * counted
    zeros = torch.zeros(inputs.num_sequences, dtype=logprobs.dtype, device=logprobs.device)
    total = zeros.index_add(0, inputs.sequence, gap)
    count = zeros.index_add(0, inputs.sequence, counted).clamp_min(1.0)
    ratio = torch.exp(total / count)[inputs.sequence] * torch.exp(logprobs - logprobs.detach())
    advantages = inputs["advantages"]
    return -torch.minimum(ratio * advantages, _clipped(ratio, inputs, config) * advantages)

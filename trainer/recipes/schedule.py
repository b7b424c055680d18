"""Learning rates: the default for LoRA, and how the rate goes over a run."""

from __future__ import annotations

import json
import math
from pathlib import Path

from renderers import UserError

from .config import TrainConfig

__all__ = ["default_learning_rate", "learning_rate_at", "resolve_learning_rate"]

# tinker-cookbook's rule (its `hyperparam_utils`): 5e-5 for full fine-tuning at a hidden size of 2000, ten times that
# for LoRA, less for wider models by a power fitted per family.
_BASE, _LORA_FACTOR, _WIDTH = 5e-5, 10.0, 2000.0
_POWERS = {"llama": 0.781, "qwen": 0.0775}


def default_learning_rate(hidden_size: int, model_type: str = "") -> float:
    """The learning rate to start from when training LoRA adapters.

    >>> round(default_learning_rate(4096, "qwen3"), 6)
    0.000473
    """
    power = next((power for name, power in _POWERS.items() if model_type.startswith(name)), _POWERS["qwen"])
    return _BASE * _LORA_FACTOR * (_WIDTH / hidden_size) ** power


def resolve_learning_rate(config: TrainConfig) -> float:
    """The configured rate, or the default for the model's width.

    Raises:
        UserError: no rate is configured and the model's width is unknown here.
    """
    if config.learning_rate is not None:
        return config.learning_rate
    path = Path(config.model) / "config.json"
    if not path.is_file():
        raise UserError(f"learning_rate: expected a value, as {config.model} is no folder here to take the width from")
    settings = json.loads(path.read_text(encoding="utf-8"))
    settings = settings.get("text_config", settings)
    return default_learning_rate(int(settings["hidden_size"]), str(settings.get("model_type", "")))


def learning_rate_at(step: int, num_steps: int, peak: float, config: TrainConfig) -> float:
    """The rate of step `step` (from 0) of `num_steps`.

    Warm-up is linear from peak / warmup_steps to the peak; then constant, or down to `min_lr_ratio` of the peak,
    linearly or along a half cosine, reached one step after the last.
    """
    if step < config.warmup_steps:
        return peak * (step + 1) / config.warmup_steps
    if config.schedule == "constant":
        return peak
    done = (step - config.warmup_steps) / max(num_steps - config.warmup_steps, 1)
    left = 1 - done if config.schedule == "linear" else 0.5 * (1 + math.cos(math.pi * done))
    return peak * (config.min_lr_ratio + (1 - config.min_lr_ratio) * left)

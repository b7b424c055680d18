"""What a training run is told: TOML file, then `key=value` overrides, checked as a whole."""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from renderers import OptionError, UserError

__all__ = ["AdamConfig", "LoraOptions", "SampleConfig", "TrainConfig", "load_config"]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LoraOptions(_Strict):
    """What the adapter trains; see `trainer.LoraConfig`."""

    rank: int = Field(default=32, ge=1)
    alpha: float = Field(default=32.0, gt=0)
    seed: int = 0
    train_mlp: bool = True
    train_attn: bool = True
    train_unembed: bool = True


class AdamConfig(_Strict):
    """AdamW beside the learning rate; see `trainer.AdamParams`."""

    beta1: float = Field(default=0.9, ge=0, lt=1)
    beta2: float = Field(default=0.95, ge=0, lt=1)
    eps: float = Field(default=1e-12, ge=0)
    weight_decay: float = Field(default=0.0, ge=0)
    grad_clip_norm: float = Field(default=0.0, ge=0)


class SampleConfig(_Strict):
    """Prompts to answer while training, to see what it learns."""

    prompts: tuple[str, ...] = ()
    every: int = Field(default=0, ge=0, description="steps between samples; 0: only before and after")
    max_tokens: int = Field(default=64, ge=1)
    temperature: float = Field(default=0.0, ge=0)


class TrainConfig(_Strict):
    """A run of `train-from-shards`.

    Attributes:
        shards: folder of finished shards.
        model: base model: a folder or hub id in process, the served name with `base_url`.
        out: run folder.
        tokenizer: folder or hub id of the model's tokenizer; None takes `model`. For a server's names of its own.
        base_url: a server; None trains in process.
        objective: `sft` is cross-entropy over the shards' weights; `dpo` compares linked chosen and rejected rows.
        epochs: passes over the data; None is 1, or as many as `max_steps` needs. `max_steps` ends earlier.
        batch_size: examples per step (pairs, for `dpo`); `batch_tokens`: at most so many model input tokens per step.
        shuffle, seed: the order of rows, a pure function of both and the epoch.
        learning_rate: None takes the default for LoRA of the model's width (`schedule.default_learning_rate`).
        schedule, warmup_steps, min_lr_ratio: how the rate goes over the run.
        eval_shards: folder whose rows are held out; None takes the split `eval` of `shards`.
        eval_every: steps between evaluations on the held-out rows; 0: after each epoch. `eval_rows` caps them.
        save_every: steps between checkpoints; 0: after each epoch. `keep`: how many to keep, 0 for all.
        lora, adam, sample: see `LoraOptions`, `AdamConfig`, `SampleConfig`.
        dpo_beta: inverse temperature of the preference loss.
        trackers: further places for metrics: wandb, trackio, tensorboard, mlflow, or entry points' names.
        dtype, device: of the base model in process.
        shard_base: under torchrun, spread the base over all devices; None does so where it does not fit one.
    """

    shards: str
    model: str
    out: str
    tokenizer: str | None = None
    base_url: str | None = None
    objective: Literal["sft", "dpo"] = "sft"
    epochs: int | None = Field(default=None, ge=1)
    max_steps: int | None = Field(default=None, ge=1)
    batch_size: int | None = Field(default=None, ge=1)
    batch_tokens: int | None = Field(default=None, ge=1)
    shuffle: bool = True
    seed: int = 0
    learning_rate: float | None = Field(default=None, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    warmup_steps: int = Field(default=0, ge=0)
    min_lr_ratio: float = Field(default=0.0, ge=0, le=1)
    eval_shards: str | None = None
    eval_every: int = Field(default=0, ge=0)
    eval_rows: int | None = Field(default=None, ge=1)
    save_every: int = Field(default=0, ge=0)
    keep: int = Field(default=3, ge=0)
    dpo_beta: float = Field(default=0.1, gt=0)
    lora: LoraOptions = LoraOptions()
    adam: AdamConfig = AdamConfig()
    sample: SampleConfig = SampleConfig()
    trackers: tuple[str, ...] = ()
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    device: str = "auto"
    shard_base: bool | None = None

    @model_validator(mode="before")
    @classmethod
    def _default_batch(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("batch_size") is None and values.get("batch_tokens") is None:
            return {**cast("dict[str, Any]", values), "batch_size": 32}
        return values


def load_config(
    file: str | Path | None, overrides: Sequence[str] = (), fixed: Mapping[str, Any] | None = None
) -> TrainConfig:
    """The configuration of a run.

    Args:
        file: a TOML file, or None.
        overrides: `key=value`, dotted for inner keys (`lora.rank=8`); values as TOML, or plain text.
        fixed: values that win over both (the command's own options); None values are passed over.

    Raises:
        UserError: the file cannot be read.
        OptionError: an unknown key (with the nearest known one), or a value of the wrong kind.
    """
    values: dict[str, Any] = {}
    if file is not None:
        try:
            values = tomllib.loads(Path(file).read_text(encoding="utf-8"))
        except OSError as error:
            raise UserError(f"{file}: expected a TOML file; {error.strerror}") from None
        except tomllib.TOMLDecodeError as error:
            raise UserError(f"{file}: expected TOML; {error}") from None
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals:
            raise OptionError(f"{override}: expected key=value")
        _set(values, key.strip(), _value(text.strip()))
    for key, value in (fixed or {}).items():
        if value is not None:
            _set(values, key, value)
    try:
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise OptionError("; ".join(_explain(dict(fault)) for fault in error.errors())) from None


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return None if text in ("none", "null", "None") else text


def _set(values: dict[str, Any], dotted: str, value: Any) -> None:
    *outer, last = dotted.split(".")
    inner = values
    for key in outer:
        step = inner.setdefault(key, {})
        if not isinstance(step, dict):
            raise OptionError(f"{dotted}: {key} is a value, not a table")
        inner = cast("dict[str, Any]", step)
    inner[last] = value


def _explain(fault: Mapping[str, Any]) -> str:
    place = ".".join(str(part) for part in fault["loc"])
    if fault["type"] == "extra_forbidden":
        known = list(_keys(TrainConfig))
        nearest = difflib.get_close_matches(place, known, n=1, cutoff=0.5)
        hint = f"did you mean {nearest[0]}?" if nearest else f"expected one of {', '.join(known)}"
        return f"{place}: unknown key; {hint}"
    if fault["type"] == "missing":
        return f"{place}: expected a value; got none"
    return f"{place}: {fault['msg'][:1].lower()}{fault['msg'][1:]}; got {fault['input']!r}"


def _keys(model: type[BaseModel], prefix: str = "") -> Iterable[str]:
    for name, field in model.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from _keys(inner, f"{prefix}{name}.")
        else:
            yield prefix + name

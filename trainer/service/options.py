"""What a service runs on: base models by name, device, budgets, where checkpoints lie."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from renderers import OptionError

__all__ = ["ServiceOptions", "default_checkpoint_dir"]

_HOME_VARIABLE = "DATUMLOOM_HOME"


def default_checkpoint_dir() -> Path:
    """`$DATUMLOOM_HOME/checkpoints`; without the variable under the user's data folder."""
    home = os.environ.get(_HOME_VARIABLE)
    if home:
        return Path(home) / "checkpoints"
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(data) / "datumloom" / "checkpoints"


@dataclass(frozen=True)
class ServiceOptions:
    """
    Attributes:
        models: base models by the name callers use, each a folder or hub id. Empty: any name is a folder or hub id.
        dtype: `float32` or `bfloat16`; None is bfloat16 on CUDA and float32 on CPU.
        device: `cpu`, `cuda` or `cuda:N`; None is CUDA where there is one.
        checkpoint_dir: root of the checkpoint store.
        alpha: LoRA's numerator for every adapter made here; the wire has no field for it.
        tokens_per_pass: most tokens in one pass, and in what is coalesced into one; None takes the device's default.
        memory_bytes: budget for activations; None measures the device.
        shard_base: in a group of processes, spread the base over their devices; None does so when it would take more
            than three quarters of one.
        sampler: options of `trainer.sampler.Sampler`, by its argument names.
    """

    models: tuple[tuple[str, str], ...] = ()
    dtype: str | None = None
    device: str | None = None
    checkpoint_dir: Path = field(default_factory=default_checkpoint_dir)
    alpha: float = 32.0
    tokens_per_pass: int | None = None
    memory_bytes: int | None = None
    shard_base: bool | None = None
    sampler: tuple[tuple[str, Any], ...] = ()

    @classmethod
    def of(
        cls,
        *,
        base_model: str | os.PathLike[str] | None = None,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        sampler: Mapping[str, Any] | None = None,
        **others: Any,
    ) -> ServiceOptions:
        """From a caller's arguments: `base_model` alone, or `models` by name.

        Raises:
            OptionError: both are given, a name is empty, alpha or a budget is not positive.
        """
        if base_model is not None and models is not None:
            raise OptionError("models: expected base_model or models; got both")
        named = {os.fspath(base_model): base_model} if base_model is not None else (models or {})
        if any(not name for name in named):
            raise OptionError("models: expected names of at least one character; got ''")
        for name in ("alpha", "tokens_per_pass", "memory_bytes"):
            value = others.get(name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int | float) or value <= 0):
                raise OptionError(f"{name}: expected a positive number; got {value!r}")
        folder = default_checkpoint_dir() if checkpoint_dir is None else Path(checkpoint_dir)
        return cls(
            models=tuple((name, os.fspath(place)) for name, place in named.items()),
            checkpoint_dir=folder.absolute(),
            sampler=tuple(sorted((sampler or {}).items())),
            **{name: value for name, value in others.items() if value is not None},
        )

    def place_of(self, base_model: str) -> str:
        """The folder or hub id behind a name; `OptionError` when the name is not served."""
        if not isinstance(base_model, str) or not base_model:
            raise OptionError(f"base_model: expected a model's name; got {base_model!r}")
        if not self.models:
            return base_model
        places = dict(self.models)
        if base_model not in places:
            raise OptionError(f"base_model: expected one of {', '.join(places)}; got {base_model!r}")
        return places[base_model]

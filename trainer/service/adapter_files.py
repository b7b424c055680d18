"""An adapter as PEFT's files, there and back: `adapter_config.json`, `adapter_model.safetensors`, and the moments.

Parameters are float32 under PEFT's key names, so the folder loads with `PeftModel.from_pretrained` as it is, and
reading it back gives the same bits. Expert banks become `target_parameters`; PEFT 0.17 or newer reads them, vLLM does
not, nor does vLLM take a low-rank head (`train_unembed`).

Moments lie in `optimizer.safetensors` by module name, not by place in our buffers, which depends on the forward path.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datasets_io import write_json
from renderers import MissingExtraError, OptionError
from trainer.engine import AdapterLayout, BaseModel

from .manifest import DamagedCheckpointError

__all__ = ["ADAPTER_CONFIG", "ADAPTER_MODEL", "OPTIMIZER", "peft_config", "read_state", "write_state"]

ADAPTER_CONFIG = "adapter_config.json"
ADAPTER_MODEL = "adapter_model.safetensors"
OPTIMIZER = "optimizer.safetensors"
_PREFIX = "base_model.model."
_BUFFERS = ("exp_avg", "exp_avg_sq")
# PEFT wraps a module once per adapted parameter, the first parameter innermost.
_BANK_WRAPPERS = {"gate_up_proj": ".base_layer", "down_proj": ""}


def _safetensors() -> Any:
    try:
        import safetensors.torch
    except ImportError:
        raise MissingExtraError("safetensors", "train") from None
    return safetensors.torch


# ---- names


def _banks(layout: AdapterLayout) -> set[str]:
    return {site.name for place in layout.places if place.projection.experts for site in place.projection.sites}


def peft_config(base: BaseModel, layout: AdapterLayout) -> dict[str, Any]:
    """What `adapter_config.json` says."""
    banks = _banks(layout)
    sites = [site.name for place in layout.places for site in place.projection.sites]
    modules = dict(base.module.named_modules())
    linear = [name for name in sites if name not in banks]
    config: dict[str, Any] = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base.name,
        "r": layout.config.rank,
        "lora_alpha": layout.config.alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "use_rslora": False,
        "use_dora": False,
        "init_lora_weights": True,
        "inference_mode": True,
        "fan_in_fan_out": any(type(modules.get(name)).__name__ == "Conv1D" for name in linear),
        "target_modules": _short_names(linear, set(modules)),
        "modules_to_save": None,
    }
    if banks:
        config["target_parameters"] = sorted(banks)
    return config


def _short_names(sites: list[str], modules: set[str]) -> list[str]:
    """Last parts, where every module that ends so is a site; the full path otherwise.

    PEFT takes a target that equals a module's path or ends it after a dot.
    """
    wanted = set(sites)
    names: set[str] = set()
    for site in sites:
        short = site.rpartition(".")[2]
        alike = {name for name in modules if name == short or name.endswith(f".{short}")}
        names.add(short if alike <= wanted else site)
    return sorted(names)


def _peft_tensors(layout: AdapterLayout, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
    """Views of (or, for banks, reordered copies from) `flat` by PEFT's names."""
    banks = _banks(layout)
    for name, values in layout.named(flat):
        site, _, part = name.rpartition(".")
        if site not in banks:
            yield f"{_PREFIX}{name}.weight", values
        else:
            yield f"{_PREFIX}{_bank_module(site)}.{part}.weight", _bank_to_peft(part, values)


def _bank_module(site: str) -> str:
    module, _, parameter = site.rpartition(".")
    if parameter not in _BANK_WRAPPERS:
        raise OptionError(f"adapter: expected an expert bank of {', '.join(_BANK_WRAPPERS)}; got {site}")
    return module + _BANK_WRAPPERS[parameter]


def _bank_to_peft(part: str, values: Tensor) -> Tensor:
    """A (E, R, I) to (E R, I); B (E, O, R) to (O, R E), experts fastest, as PEFT lays them out."""
    if part == "lora_A":
        return values.reshape(-1, values.shape[-1])
    return values.permute(1, 2, 0).reshape(values.shape[1], -1)


def _bank_from_peft(part: str, values: Tensor, shape: torch.Size) -> Tensor:
    if part == "lora_A":
        return values.reshape(shape)
    experts, rows, rank = shape
    return values.reshape(rows, rank, experts).permute(2, 0, 1)


# ---- files


def write_state(folder: Path, base: BaseModel, layout: AdapterLayout, state: dict[str, Tensor]) -> None:
    """Write an adapter's `state_dict` (host tensors) into `folder`; moments only when they are in it.

    Raises:
        OptionError: the base has expert banks whose names PEFT has no place for.
        OSError: the disk.
    """
    save = _safetensors().save_file
    write_json(folder / ADAPTER_CONFIG, peft_config(base, layout))
    tensors = {name: values.contiguous() for name, values in _peft_tensors(layout, state["params"])}
    save(tensors, folder / ADAPTER_MODEL, metadata={"format": "pt"})
    if "exp_avg" in state:
        moments = {
            f"{name}.{buffer}": values.contiguous()
            for buffer in _BUFFERS
            for name, values in layout.named(state[buffer])
        }
        save({**moments, "step": state["step"].reshape(1)}, folder / OPTIMIZER)


def read_state(folder: Path, layout: AdapterLayout, *, optimizer: bool) -> dict[str, Tensor]:
    """A `state_dict` for `Adapter.load_state`.

    Raises:
        OptionError: the moments are asked for and were not saved.
        DamagedCheckpointError: the tensors are not those of this layout (another architecture or rank).
    """
    load = _safetensors().load_file
    state = {"params": _filled(layout, _peft_names(layout), load(folder / ADAPTER_MODEL))}
    if optimizer:
        if not (folder / OPTIMIZER).exists():
            raise OptionError(f"optimizer: expected a checkpoint saved with its optimizer state; {folder} has none")
        moments: dict[str, Tensor] = load(folder / OPTIMIZER)
        state["step"] = moments.pop("step")[0]
        for buffer in _BUFFERS:
            names = [(f"{name}.{buffer}", None) for name, _ in layout.named(state["params"])]
            own = {key: moments[key] for key, _ in names if key in moments}
            state[buffer] = _filled(layout, names, own)
    return state


def _peft_names(layout: AdapterLayout) -> list[tuple[str, str | None]]:
    """In the layout's order: PEFT's name, and for a bank which part it is."""
    banks = _banks(layout)
    names: list[tuple[str, str | None]] = []
    for name, _ in layout.named(torch.empty(layout.size, device="meta")):
        site, _, part = name.rpartition(".")
        bank = site in banks
        names.append((f"{_PREFIX}{_bank_module(site)}.{part}.weight" if bank else f"{_PREFIX}{name}.weight", None))
        if bank:
            names[-1] = (names[-1][0], part)
    return names


def _filled(layout: AdapterLayout, names: Sequence[tuple[str, str | None]], tensors: dict[str, Tensor]) -> Tensor:
    """A flat buffer of the layout with every named tensor in its place."""
    flat = torch.empty(layout.size)
    expected = {name for name, _ in names}
    if set(tensors) != expected:
        wrong = sorted(set(tensors) ^ expected)
        raise DamagedCheckpointError(
            f"checkpoint: expected the tensors of this base model and configuration; {len(wrong)} names differ, "
            f"such as {wrong[0]}"
        )
    for (name, part), (_, place) in zip(names, layout.named(flat), strict=True):
        values = tensors[name]
        if values.numel() != place.numel():
            raise DamagedCheckpointError(
                f"checkpoint: {name}: expected {place.numel()} numbers for {tuple(place.shape)}; "
                f"got {tuple(values.shape)}"
            )
        place.copy_(values.reshape(place.shape) if part is None else _bank_from_peft(part, values, place.shape))
    return flat

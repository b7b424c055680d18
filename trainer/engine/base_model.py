"""The frozen base: any transformers causal LM, loaded once, shared by every adapter.

`BaseModel.path` says which forward runs, and the log says why:

* `decoder`: the generic decoder (the fast path; the sampler's too).
* `module-packed`: the transformers module itself, all sequences in one row, attention kept inside each sequence.
* `module-per-sequence`: the transformers module, one sequence at a time (recurrent or otherwise special models).

A path is taken only after it agreed with the module on two short sequences.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Protocol

import torch
from torch import Tensor

from renderers import MissingExtraError, OptionError

from .attention import SequenceBounds
from .decoder import Decoder, packed_attend
from .families import build_decoder
from .head import Head
from .lora import Projection, Segment, Site, bias_of
from .module_trunk import ModuleTrunk

__all__ = ["BaseModel", "ForwardPath", "Trunk", "device_of"]

logger = logging.getLogger(__name__)

ForwardPath = Literal["decoder", "module-packed", "module-per-sequence"]
_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
# How far a path may be from the module, as a share of the largest logit: rounding, not another formula.
_TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float64: 1e-6}


class Trunk(Protocol):
    """Everything before the head, over a packed batch."""

    @property
    def projections(self) -> tuple[Projection, ...]: ...

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        bounds: SequenceBounds,
        segments: Sequence[Segment],
        checkpoint_layers: int = 0,
    ) -> Tensor:
        """(T,) tokens to (T, D) after the final norm."""
        ...


@dataclass(frozen=True)
class DecoderTrunk:
    """The generic decoder with attention inside each sequence."""

    decoder: Decoder

    @property
    def projections(self) -> tuple[Projection, ...]:
        return self.decoder.projections

    def hidden(
        self,
        tokens: Tensor,
        positions: Tensor,
        bounds: SequenceBounds,
        segments: Sequence[Segment],
        checkpoint_layers: int = 0,
    ) -> Tensor:
        lengths = torch.tensor(bounds.lengths, device=tokens.device)
        return self.decoder(
            tokens,
            positions,
            packed_attend(bounds, self.decoder.attention),
            segments=segments,
            lengths=lengths.repeat_interleave(lengths, output_size=len(tokens)),
            checkpoint_layers=checkpoint_layers,
        )


@dataclass(frozen=True)
class BaseModel:
    """A frozen causal LM.

    Attributes:
        name: the folder or hub id it came from.
        module: the transformers module; its weights are the ones in use.
        decoder: the generic decoder, or None where the module runs itself.
        trunk: what the trainer calls, whichever path it is.
        head: the frozen head.
        path: which forward runs.
        context_length: longest sequence the config allows, or None when it says nothing.
    """

    name: str
    module: Any
    decoder: Decoder | None
    trunk: Trunk
    head: Head
    path: ForwardPath
    context_length: int | None

    @property
    def config(self) -> Any:
        return self.module.config

    @property
    def dtype(self) -> torch.dtype:
        return self.head.projection.weight.dtype

    @property
    def device(self) -> torch.device:
        return self.head.projection.weight.device

    @property
    def vocab_size(self) -> int:
        return self.head.projection.out_features

    @property
    def projections(self) -> tuple[Projection, ...]:
        """Every matrix that can carry a low-rank pair; the head's last."""
        return (*self.trunk.projections, self.head.projection)

    @classmethod
    def load(
        cls, name: str | Path, *, dtype: str = "float32", device: str = "cpu", revision: str | None = None
    ) -> BaseModel:
        """A model folder or hub id.

        Raises:
            MissingExtraError: transformers is not installed.
            OptionError: the dtype or device is unknown, or nothing loadable lies at `name`.
        """
        target = device_of(device)
        return cls.from_module(cls.read_module(name, dtype=dtype, revision=revision).to(target), name=str(name))

    @staticmethod
    def read_module(name: str | Path, *, dtype: str = "float32", revision: str | None = None) -> Any:
        """The transformers module alone, on the host.

        Raises:
            MissingExtraError, OptionError: as `load`.
        """
        try:
            from transformers import AutoModelForCausalLM
        except ImportError:
            raise MissingExtraError("transformers", "train") from None
        if dtype not in _DTYPES:
            raise OptionError(f"dtype: expected one of {', '.join(_DTYPES)}; got {dtype!r}")
        try:
            with _no_progress_bar():
                return AutoModelForCausalLM.from_pretrained(str(name), dtype=_DTYPES[dtype], revision=revision)
        except (OSError, ValueError) as error:
            raise OptionError(f"model: expected a causal LM's folder or hub id; got {str(name)!r}: {error}") from error

    @classmethod
    def from_module(cls, module: Any, *, name: str = "", prefer: ForwardPath = "decoder") -> BaseModel:
        """Over a transformers module in memory, which is frozen and put into eval mode.

        Args:
            module: an `AutoModelForCausalLM`.
            name: what to call it; its config's own name when empty.
            prefer: the first path to try; the later ones of `ForwardPath` follow.
        """
        module.eval().requires_grad_(False)
        name = name or str(module.config.name_or_path or module.config.model_type)
        context = _context_length(module.config)
        paths: tuple[ForwardPath, ...] = ("decoder", "module-packed", "module-per-sequence")
        expected = _module_logits(module)
        for path in paths[paths.index(prefer) :]:
            trunk = _trunk(module, path)
            if isinstance(trunk, str):
                logger.info("%s: path %s is not taken: %s", name, path, trunk)
                continue
            base = cls(name, module, getattr(trunk, "decoder", None), trunk, _head(module), path, context)
            gap = base.gap(expected)
            if gap <= _TOLERANCE[base.dtype]:
                if isinstance(trunk, ModuleTrunk):
                    base = replace(base, trunk=trunk.without_bypassed())
                logger.info("%s (%s): path %s", name, module.config.model_type, path)
                return base
            logger.warning("%s: path %s is not taken: its logits are off by %.2g of their size", name, path, gap)
        raise OptionError(
            f"model: expected logits that are the head times the last hidden state; "
            f"{name!r} ({module.config.model_type}) computes them otherwise"
        )

    @torch.no_grad()
    def gap(self, expected: list[Tensor]) -> float:
        """Largest difference from the module's logits on the probe sequences, as a share of the largest logit."""
        probes = _probes(self.vocab_size)
        bounds = SequenceBounds.of([len(p) for p in probes], self.device)
        tokens = torch.cat(probes).to(self.device)
        positions = torch.cat([torch.arange(len(p)) for p in probes]).to(self.device)
        logits = self.head.logits(self.trunk.hidden(tokens, positions, bounds, ()))
        truth = torch.cat(expected)
        return float((logits - truth).abs().max() / truth.abs().max().clamp_min(1e-6))


def device_of(name: str) -> torch.device:
    """The device; `OptionError` when there is no such thing, or no CUDA here."""
    try:
        target = torch.device(name)
    except RuntimeError:
        raise OptionError(f"device: expected cpu, cuda or cuda:N; got {name!r}") from None
    if target.type == "cuda" and not torch.cuda.is_available():
        raise OptionError(f"device: expected cpu, for no CUDA device is visible; got {name!r}")
    return target


def _context_length(config: Any) -> int | None:
    length: int | None = getattr(config, "max_position_embeddings", None)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if length is not None and rope.get("rope_type") == "dynamic":  # there the config keeps the length before scaling
        length = int(length * rope["factor"])
    return length


@contextmanager
def _no_progress_bar() -> Generator[None]:
    """transformers would draw one on standard error, where our own commands draw theirs."""
    from transformers.utils import logging as transformers_logging

    was_on = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        if was_on:
            transformers_logging.enable_progress_bar()


def _probes(vocab_size: int) -> list[Tensor]:
    return [(torch.arange(length) * 7919 + 11 * length) % vocab_size for length in (9, 5)]


@torch.no_grad()
def _module_logits(module: Any) -> list[Tensor]:
    """The module's own logits for each probe alone, float32."""
    vocab_size = module.get_output_embeddings().weight.shape[0]
    return [
        module(input_ids=probe.unsqueeze(0).to(module.device), use_cache=False).logits[0].float()
        for probe in _probes(vocab_size)
    ]


def _trunk(module: Any, path: ForwardPath) -> Trunk | str:
    if path != "decoder":
        return ModuleTrunk.over(module, packed=path == "module-packed")
    decoder = build_decoder(module)
    return decoder if isinstance(decoder, str) else DecoderTrunk(decoder)


def _head(module: Any) -> Head:
    linear = module.get_output_embeddings()
    config = module.config
    weight = linear.weight.detach()
    projection = Projection("lm_head", "unembed", weight, bias_of(linear), (Site("lm_head", 0, len(weight)),))
    scale = float(getattr(config, "logit_scale", None) or 1.0)  # Cohere multiplies, Granite divides
    scale /= float(getattr(config, "logits_scaling", None) or 1.0)
    return Head(projection, getattr(config, "final_logit_softcapping", None), scale)

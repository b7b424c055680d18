"""An adapter: one flat float32 buffer each for parameters, gradients and both moments, with views per projection.

Flat buffers make zeroing, stepping, saving, copying and all-reducing one operation each, whatever the model's depth.

Layout: projection after projection in the model's order; inside one, the stacked A matrices of its sites (S*R, I),
then each site's B (rows, R). A bank of E experts has a leading E on every shape.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from renderers import OptionError
from trainer.protocol import LoraConfig

from .lora import AdapterWeights, LoraPart, Projection

__all__ = ["Adapter", "AdapterLayout"]


@dataclass(frozen=True)
class _Place:
    """Where one projection's matrices lie in the flat buffer."""

    projection: Projection
    a_start: int
    b_starts: tuple[int, ...]


class AdapterLayout:
    """Which projections an adapter trains, and where each lies in its flat buffers."""

    def __init__(self, config: LoraConfig, projections: Iterable[Projection]) -> None:
        wanted = {"attn": config.train_attn, "mlp": config.train_mlp, "unembed": config.train_unembed}
        self.config = config
        self.places: list[_Place] = []
        offset = 0
        for projection in projections:
            if not wanted[projection.kind]:
                continue
            a_start = offset
            offset += math.prod(self.a_shape(projection))
            b_starts: list[int] = []
            for index in range(len(projection.sites)):
                b_starts.append(offset)
                offset += math.prod(self.b_shape(projection, index))
            self.places.append(_Place(projection, a_start, tuple(b_starts)))
        self.size = offset
        if offset == 0:
            asked = ", ".join(kind for kind, on in wanted.items() if on)
            raise OptionError(f"lora_config: expected a model with matrices to train for {asked}; it has none")

    def a_shape(self, projection: Projection) -> tuple[int, ...]:
        bank = (projection.experts,) if projection.experts else ()
        return (*bank, len(projection.sites) * self.config.rank, projection.in_features)

    def b_shape(self, projection: Projection, index: int) -> tuple[int, ...]:
        bank = (projection.experts,) if projection.experts else ()
        site = projection.sites[index]
        return (*bank, site.stop - site.start, self.config.rank)

    def a(self, flat: Tensor, place: _Place) -> Tensor:
        """The stacked A matrices as a view of `flat`."""
        shape = self.a_shape(place.projection)
        return flat[place.a_start : place.a_start + math.prod(shape)].view(shape)

    def b(self, flat: Tensor, place: _Place, index: int) -> Tensor:
        """One site's B as a view of `flat`."""
        shape = self.b_shape(place.projection, index)
        start = place.b_starts[index]
        return flat[start : start + math.prod(shape)].view(shape)

    def named(self, flat: Tensor) -> Iterator[tuple[str, Tensor]]:
        """Views of `flat` by name: `<module path>.lora_A` (R, I) and `<module path>.lora_B` (rows, R)."""
        rank = self.config.rank
        for place in self.places:
            stacked = self.a(flat, place)
            for index, site in enumerate(place.projection.sites):
                yield f"{site.name}.lora_A", stacked[..., index * rank : (index + 1) * rank, :]
                yield f"{site.name}.lora_B", self.b(flat, place, index)

    def weights(self, values: Tensor, grads: Tensor | None, version: int) -> AdapterWeights:
        """What the forward reads; with `grads`, what backward adds to."""
        parts: dict[str, LoraPart] = {}
        for place in self.places:
            sites = place.projection.sites
            parts[place.projection.key] = LoraPart(
                a=self.a(values, place),
                bs=tuple(self.b(values, place, i) for i in range(len(sites))),
                rows=tuple((s.start, s.stop) for s in sites),
                rank=self.config.rank,
                scale=self.config.scale,
                grad_a=None if grads is None else self.a(grads, place),
                grad_bs=None if grads is None else tuple(self.b(grads, place, i) for i in range(len(sites))),
            )
        return AdapterWeights(parts, version)


class Adapter:
    """One trainable adapter on a frozen base.

    Attributes:
        layout: what is trained and where it lies.
        params, grads, exp_avg, exp_avg_sq: flat float32 buffers of `layout.size` on the base's device.
        step: optimizer steps taken.
        pending: backward passes accumulated since the last step.
        version: grows whenever the parameters change.
        seed: what A was drawn with.
    """

    def __init__(
        self, config: LoraConfig, projections: Sequence[Projection], device: torch.device, dtype: torch.dtype
    ) -> None:
        self.layout = AdapterLayout(config, projections)
        self.seed = config.seed if config.seed is not None else int(torch.seed() % (1 << 31))
        self.params = self._initial().to(device)
        self.grads = torch.zeros_like(self.params)
        self.exp_avg = torch.zeros_like(self.params)
        self.exp_avg_sq = torch.zeros_like(self.params)
        self.step = 0
        self.pending = 0
        self.version = 0
        self._dtype = dtype
        self._operand: tuple[int, Tensor] | None = None

    @property
    def config(self) -> LoraConfig:
        return self.layout.config

    def _initial(self) -> Tensor:
        """A uniform in +-1/sqrt(I) (PEFT's kaiming-uniform with a = sqrt(5)), B zero; drawn on the host, so that one
        seed means one adapter on every device."""
        generator = torch.Generator().manual_seed(self.seed)
        flat = torch.zeros(self.layout.size)
        for place in self.layout.places:
            bound = 1.0 / math.sqrt(place.projection.in_features)
            self.layout.a(flat, place).uniform_(-bound, bound, generator=generator)
        return flat

    def named_parameters(self) -> dict[str, Tensor]:
        """Float32 views by name; see `AdapterLayout.named`."""
        return dict(self.layout.named(self.params))

    def named_gradients(self) -> dict[str, Tensor]:
        """Float32 views of what has been accumulated, by the same names."""
        return dict(self.layout.named(self.grads))

    def _values(self) -> Tensor:
        """The parameters in the base's dtype; the float32 buffer itself when that is the dtype."""
        if self._dtype == self.params.dtype:
            return self.params
        if self._operand is None or self._operand[0] != self.version:
            self._operand = (self.version, self.params.to(self._dtype))
        return self._operand[1]

    def trainable(self) -> AdapterWeights:
        """For `forward_backward`: reads the live parameters, adds to the live gradients."""
        return self.layout.weights(self._values(), self.grads, self.version)

    def frozen(self) -> AdapterWeights:
        """For `forward`: the live parameters without gradients; valid until the next step."""
        return self.layout.weights(self._values(), None, self.version)

    def snapshot(self) -> AdapterWeights:
        """A copy that later steps never touch: for sampling."""
        return self.layout.weights(self._values().clone(), None, self.version)

    def state_dict(self, *, optimizer: bool = True) -> dict[str, Tensor]:
        """Copies on the host: `params`, and with `optimizer` `exp_avg`, `exp_avg_sq`, `step` (int64 scalar).

        Accumulated gradients are not part of the state: a checkpoint lies between steps.
        """
        state = {"params": self.params.to("cpu", copy=True)}
        if optimizer:
            state["exp_avg"] = self.exp_avg.to("cpu", copy=True)
            state["exp_avg_sq"] = self.exp_avg_sq.to("cpu", copy=True)
            state["step"] = torch.tensor(self.step)
        return state

    def load_state(self, state: dict[str, Tensor], *, optimizer: bool = True) -> None:
        """Takes over a `state_dict`; clears gradients. Without `optimizer` moments and step start at zero.

        Raises:
            OptionError: a buffer is missing or has another size.
        """
        names = ["params", *(["exp_avg", "exp_avg_sq"] if optimizer else [])]
        for name in [*names, *(["step"] if optimizer else [])]:
            if name not in state:
                raise OptionError(f"adapter state: expected {name}; got {', '.join(sorted(state))}")
        for name in names:
            if state[name].shape != self.params.shape:
                raise OptionError(
                    f"adapter state: {name}: expected {tuple(self.params.shape)}; got {tuple(state[name].shape)}"
                )
        for buffer in (self.exp_avg, self.exp_avg_sq, self.grads):
            buffer.zero_()
        for name in names:
            getattr(self, name).copy_(state[name])
        self.step = int(state["step"]) if optimizer else 0
        self.pending = 0
        self.version += 1

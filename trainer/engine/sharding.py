"""The frozen base spread over a group: `fully_shard` (FSDP2), one unit per decoder layer.

Each rank keeps its share of every layer's matrices; a layer is gathered just before it runs, forward and backward, and
let go after. Frozen matrices have no gradient, so nothing is scattered back. Embedding, head, norms and biases stay
whole on every rank: the head is read chunk by chunk outside of autograd.

Gathering is a collective, so ranks must run equally many passes of equal kind: whoever has none left runs `idle_pass`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, TypeVar, cast

import torch
from torch import Tensor, nn

from renderers import OptionError

from .attention import SequenceBounds
from .base_model import BaseModel, DecoderTrunk
from .decoder import Attend, Decoder, DecoderLayer
from .lora import Segment
from .parallel import World

__all__ = ["ShardedDecoder", "idle_pass", "module_bytes", "sharded"]

T = TypeVar("T")


def module_bytes(module: nn.Module) -> int:
    """What a module's weights take, each counted once."""
    return sum(p.numel() * p.element_size() for p in module.parameters())


def sharded(base: BaseModel, world: World, device: torch.device) -> BaseModel:
    """The base over all ranks' devices; every rank calls it with the same base on its host.

    The module stays as a description: its parameters are on the device `meta` afterwards.

    Args:
        base: on the host; not to be used afterwards.
        device: this rank's.

    Raises:
        OptionError: the base does not run on the generic decoder.
    """
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.fsdp import fully_shard

    if base.decoder is None:
        raise OptionError(f"shard_base: expected a model that runs on the generic decoder; {base.name} is {base.path}")
    mesh = DeviceMesh.from_group(world.device_group(), device.type)
    here = _Mover(device)
    layers: list[ShardedLayer] = []
    for layer in base.decoder.layers:
        unit = _LayerUnit(layer, device)
        fully_shard(unit, mesh=mesh)
        layers.append(ShardedLayer(**_fields(unit.skeleton), unit=unit))
    root = _Root([layer.unit for layer in layers])
    fully_shard(root, mesh=mesh)
    whole = _fields(base.decoder)
    whole.update(embedding=here(base.decoder.embedding), norm=here.all(base.decoder.norm), layers=tuple(layers))
    decoder = ShardedDecoder(**whole, root=root)
    head = here.all(base.head)
    _empty(base.module, device)
    return replace(base, decoder=decoder, trunk=DecoderTrunk(decoder), head=head)


def idle_pass(base: BaseModel, *, backward: bool) -> None:
    """A pass over one token that counts for nothing, beside a pass of other ranks."""
    token = torch.zeros(1, dtype=torch.int64, device=base.device)
    with torch.set_grad_enabled(backward):
        hidden = base.trunk.hidden(token, token, SequenceBounds.of([1], base.device), ())
    if backward:
        hidden.backward(torch.zeros_like(hidden))


class _LayerUnit(nn.Module):
    """One layer's matrices as parameters that FSDP may take apart.

    Attributes:
        skeleton: the layer with `meta` tensors in the matrices' places.
    """

    def __init__(self, layer: DecoderLayer, device: torch.device) -> None:
        super().__init__()
        matrices: list[Tensor] = []

        def take(tensor: Tensor) -> Tensor:
            if tensor.dim() < 2:
                return tensor.to(device)
            matrices.append(tensor)
            return tensor.to("meta")

        self.skeleton: DecoderLayer = _map_tensors(layer, take)
        self.matrices = nn.ParameterList(nn.Parameter(m, requires_grad=False) for m in matrices)

    def forward(
        self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, segments: Sequence[Segment]
    ) -> Tensor:
        gathered = iter(self.matrices)
        layer = _map_tensors(self.skeleton, lambda tensor: next(gathered) if tensor.is_meta else tensor)
        return layer.forward(index, x, cos, sin, attend, segments)


class _Root(nn.Module):
    """What makes the units one model: they share streams, and a layer is gathered while the one before runs.

    Attributes:
        announce: called before a run that the other ranks do not know of (sampling), or None.
    """

    def __init__(self, units: Sequence[nn.Module]) -> None:
        super().__init__()
        self.units = nn.ModuleList(units)
        self.announce: Callable[[], None] | None = None

    def forward(self, run: Callable[..., Tensor], *args: Any, **kwargs: Any) -> Tensor:
        return run(*args, **kwargs)


@dataclass(frozen=True)
class ShardedLayer(DecoderLayer):
    """A layer whose matrices are only there while it runs; its own fields are good for shapes."""

    unit: nn.Module

    def forward(
        self, index: int, x: Tensor, cos: Tensor, sin: Tensor, attend: Attend, segments: Sequence[Segment]
    ) -> Tensor:
        # Which adapters a pass carries differs from rank to rank; whether backward reaches a layer must not.
        if index == 0 and torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()
        return self.unit(index, x, cos, sin, attend, segments)


@dataclass(frozen=True)
class ShardedDecoder(Decoder):
    """The decoder over sharded layers; a collective call."""

    root: _Root

    def __call__(
        self,
        tokens: Tensor,
        positions: Tensor,
        attend: Attend,
        *,
        segments: Sequence[Segment] = (),
        lengths: Tensor | None = None,
        checkpoint_layers: int = 0,
    ) -> Tensor:
        if self.root.announce is not None:
            self.root.announce()
        return self.root(
            super().__call__,
            tokens,
            positions,
            attend,
            segments=segments,
            lengths=lengths,
            checkpoint_layers=checkpoint_layers,
        )


class _Mover:
    """Tensors to a device; what was one tensor (a tied head) stays one."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._moved: dict[tuple[int, torch.Size], Tensor] = {}

    def __call__(self, tensor: Tensor) -> Tensor:
        key = (tensor.data_ptr(), tensor.shape)
        if key not in self._moved:
            self._moved[key] = tensor.to(self._device)
        return self._moved[key]

    def all(self, value: T) -> T:
        return _map_tensors(value, self)


def _fields(value: Any) -> dict[str, Any]:
    return {f.name: getattr(value, f.name) for f in fields(value)}


def _map_tensors(value: T, change: Callable[[Tensor], Tensor]) -> T:
    """The same tree of dataclasses with every tensor changed, in the order of fields."""
    changed: dict[str, Any] = {}
    for name, inner in _fields(value).items():
        if isinstance(inner, Tensor):
            changed[name] = change(inner)
        elif is_dataclass(inner) and not isinstance(inner, type):
            changed[name] = _map_tensors(cast("Any", inner), change)
    return replace(cast("Any", value), **changed)


def _empty(module: nn.Module, device: torch.device) -> None:
    """Let go of a module's weights; its buffers (rotary frequencies) are still read."""
    for part in module.modules():
        for name, parameter in part.named_parameters(recurse=False):
            setattr(part, name, nn.Parameter(parameter.detach().to("meta"), requires_grad=False))
        for name, buffer in part.named_buffers(recurse=False):
            setattr(part, name, buffer.to(device))

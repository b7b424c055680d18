"""An engine by its base's name: of this process, or of the group that this process leads."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import torch

from renderers import OptionError

from .base_model import BaseModel, device_of
from .engine import Engine
from .group import GroupEngine
from .memory import total_bytes
from .messages import Message
from .parallel import World
from .sharding import module_bytes, sharded

__all__ = ["open_engine", "open_share"]

logger = logging.getLogger(__name__)

# A base that takes more of the device than this is sharded where nobody decided.
_WHOLE_SHARE = 0.75


def open_engine(
    name: str | Path,
    *,
    dtype: str,
    device: str,
    shard_base: bool | None = None,
    tokens_per_pass: int | None = None,
    memory_bytes: int | None = None,
) -> Engine:
    """The engine of this process, or of the group that this process leads (`World.current()`).

    Args:
        name: the base's folder or hub id; every rank reads it.
        dtype, device: see `BaseModel.load`; in a group `cpu` or `cuda`.
        shard_base: spread the base over the group's devices; None does so when it would take more than three quarters
            of one.
        tokens_per_pass, memory_bytes: see `Engine`.

    Raises:
        OptionError: as `BaseModel.load`; or sharding is asked of one process.
        RankError: another rank could not open it.
    """
    world = World.current()
    budgets: dict[str, Any] = {"tokens_per_pass": tokens_per_pass, "memory_bytes": memory_bytes}
    if world.size == 1:
        if shard_base:
            raise OptionError("shard_base: expected false, for there is one process; start several with torchrun")
        return Engine(BaseModel.load(name, dtype=dtype, device=device), **budgets)
    with world.lock:
        opening = {"name": str(name), "dtype": dtype, "device": device, "shard_base": shard_base, **budgets}
        key = f"engine-{world.next_number()}"
        world.tell(Message({"op": "open", "engine": key, **opening}))
        return open_share(world, key, opening)


def open_share(world: World, key: str, opening: dict[str, Any]) -> GroupEngine:
    """One rank's part of `open_engine`: read on the host, agree whether to shard, then take the device."""
    module, large = None, False
    error: Exception | None = None
    device = torch.device("cpu")
    try:
        device_of(opening["device"])
        device = world.device(opening["device"])
        module = BaseModel.read_module(opening["name"], dtype=opening["dtype"])
        large = module_bytes(module) > _WHOLE_SHARE * total_bytes(device)
    except Exception as caught:
        error = caught
    reports = world.agree(Message({"large": large}), error)
    if world.rank == 0:
        wanted: bool | None = opening["shard_base"]
        shard = any(report.header["large"] for report in reports) if wanted is None else wanted
        world.tell(Message({"shard": shard}))
    else:
        shard = bool(world.hear().header["shard"])
    assert module is not None
    engine: GroupEngine | None = None
    try:
        base = BaseModel.from_module(module if shard else module.to(device), name=opening["name"])
        base = sharded(base, world, device) if shard else base
        engine = GroupEngine(
            base,
            world,
            key=key,
            tokens_per_pass=opening["tokens_per_pass"],
            memory_bytes=opening["memory_bytes"],
        )
    except Exception as caught:
        error = caught
    world.agree(error=error)
    assert engine is not None
    how = "sharded" if shard else "whole on every rank"
    logger.info("%s: %d ranks, base %s", opening["name"], world.size, how)
    return engine

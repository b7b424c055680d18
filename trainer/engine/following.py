"""What every rank but the leader does: hear, do, report, until it is dismissed."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

from renderers import UserError
from trainer.protocol import AdamParams, LoraConfig

from .engine import Engine
from .group import GroupEngine
from .messages import Message, requests_of
from .opening import open_share
from .parallel import RankError, World
from .sharding import idle_pass

__all__ = ["serve_requests"]

logger = logging.getLogger(__name__)


def serve_requests(world: World) -> None:
    """A follower's life: do what the leader tells until it says stop.

    Raises:
        LostRankError: the leader is gone.
    """
    engines: dict[str, GroupEngine] = {}
    while (message := world.hear()).header["op"] != "stop":
        header = message.header
        try:
            if header["op"] == "open":
                engines[header["engine"]] = open_share(world, header["engine"], header)
            elif header["op"] == "close":
                del engines[header["engine"]]
            else:
                _FOLLOW[header["op"]](engines[header["engine"]], message)
        except (RankError, UserError) as error:  # agreed upon: the leader raises it too
            if world.lost is not None:
                raise
            logger.warning("rank %d: %s: %s", world.rank, header["op"], error)


def _create_adapter(engine: GroupEngine, message: Message) -> None:
    error: Exception | None = None
    try:
        Engine.create_adapter(engine, LoraConfig(**message.header["lora"]), message.header["adapter_id"])
    except Exception as caught:
        error = caught
    engine.world.agree(error=error)


def _remove_adapter(engine: GroupEngine, message: Message) -> None:
    engine.adapters.pop(message.header["adapter_id"], None)  # where its creation failed there is none


def _load_state(engine: GroupEngine, message: Message) -> None:
    header = message.header
    state = {name: torch.from_numpy(a) for name, a in zip(header["names"], message.arrays, strict=True)}
    Engine.load_state(engine, header["adapter_id"], state, optimizer=header["optimizer"])
    engine.world.agree()


def _clear_gradients(engine: GroupEngine, message: Message) -> None:
    Engine.clear_gradients(engine, message.header["adapter_id"])


def _run(engine: GroupEngine, message: Message) -> None:
    engine.run_share(requests_of(message), message.header["tokens"])


def _optim_step(engine: GroupEngine, message: Message) -> None:
    engine.optim_step(message.header["adapter_id"], AdamParams(**message.header["params"]))


def _accompany(engine: GroupEngine, message: Message) -> None:
    del message
    idle_pass(engine.base, backward=False)


_FOLLOW: dict[str, Callable[[GroupEngine, Message], None]] = {
    "accompany": _accompany,
    "clear_gradients": _clear_gradients,
    "create_adapter": _create_adapter,
    "load_state": _load_state,
    "optim_step": _optim_step,
    "remove_adapter": _remove_adapter,
    "run": _run,
}

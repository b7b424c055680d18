"""A command under torchrun: one process does the command, the others lend their devices."""

from __future__ import annotations

import os
import signal
from collections.abc import Generator
from contextlib import contextmanager

__all__ = ["is_launched_as_group", "process_group"]


def is_launched_as_group() -> bool:
    """Whether torchrun started several processes of this command."""
    return os.environ.get("WORLD_SIZE", "1") != "1" and "RANK" in os.environ


@contextmanager
def process_group() -> Generator[bool]:
    """Whether this process leads, and so does what the command is for.

    Alone, it does. Started with others by torchrun it joins them; who does not lead is busy in here until the leader
    has done, and gets False then.

    Raises:
        OptionError: torchrun's variables do not fit this machine.
        LostRankError: the leader is gone.
    """
    if not is_launched_as_group():
        yield True
        return
    from ..engine import World, serve_requests

    with World.join() as world:
        if world.rank:
            # Ctrl-C reaches every process; the leader ends in good order, and the others with it.
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            serve_requests(world)
        yield world.rank == 0

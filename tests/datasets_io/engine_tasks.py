"""Tasks for the tests of engines; worker processes import them from here."""

from __future__ import annotations

import os
import signal
from dataclasses import dataclass
from pathlib import Path

from datasets_io import Block
from renderers import InputError


def block_of(index: int) -> Block:
    return Block(index, "rows.jsonl", 10 * index + 1, 0, b"{}\n{}\n")


@dataclass(frozen=True)
class Tell:
    """Answers with its index and where it ran."""

    block: Block

    def __call__(self) -> tuple[int, int]:
        return self.block.index, os.getpid()


@dataclass(frozen=True)
class Fail:
    block: Block

    def __call__(self) -> None:
        raise InputError("messages[0]", "unknown_role", f"block {self.block.index}")


@dataclass(frozen=True)
class DieFirst:
    """Kills its process the first `times` times, counted by files."""

    block: Block
    folder: str
    times: int

    def __call__(self) -> tuple[int, int]:
        for number in range(self.times):
            marker = Path(self.folder) / f"{self.block.index}-{number}"
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        return self.block.index, os.getpid()


@dataclass(frozen=True)
class Leave:
    """Ends its process as a failing import would."""

    block: Block

    def __call__(self) -> None:
        os._exit(7)

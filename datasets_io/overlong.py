"""Examples that are too long, and what a policy makes of their block."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from renderers import Conversation, RenderedBlock, Renderer

from .spec import RenderSpec

__all__ = ["Fitted", "Loss", "Overlong"]


class Loss(NamedTuple):
    """What a policy leaves out of a conversation; `message` is None when it is not one message."""

    conversation: int
    message: int | None
    reason: str
    detail: str


@dataclass(slots=True)
class Fitted:
    """A block whose examples all fit, what was left out, and how often something was cut."""

    rendered: RenderedBlock
    losses: list[Loss] = field(default_factory=list[Loss])
    events: Counter[str] = field(default_factory=Counter[str])


class Overlong(NamedTuple):
    """A block with examples of more than `limit` tokens: those where `long` is True."""

    rendered: RenderedBlock
    long: npt.NDArray[np.bool_]  # (num_examples,)
    limit: int
    conversations: Sequence[Conversation]
    renderer: Renderer
    spec: RenderSpec

    def too_long(self, example: int, more: str = "") -> Loss:
        """The loss of one whole example."""
        length = int(self.rendered.offsets[example + 1] - self.rendered.offsets[example])
        turn = int(self.rendered.turn[example])
        detail = f"expected at most {self.limit} tokens; got {length}{more}"
        return Loss(int(self.rendered.conversation[example]), None if turn < 0 else turn, "too_long", detail)

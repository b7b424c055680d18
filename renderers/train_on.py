"""Who is trained: a loss weight per message from `TrainOnWhat` and the messages' own `weight` / `trainable`."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .errors import InputError
from .messages import Message
from .rendered import TrainOnWhat

__all__ = ["message_weights", "trains_only_assistants"]

_ASSISTANT_MODES = frozenset(
    (TrainOnWhat.LAST_ASSISTANT_MESSAGE, TrainOnWhat.LAST_ASSISTANT_TURN, TrainOnWhat.ALL_ASSISTANT_MESSAGES)
)


def trains_only_assistants(messages: Sequence[Message], weights: Sequence[float]) -> bool:
    return all(message["role"] == "assistant" for message, weight in zip(messages, weights, strict=True) if weight)


def message_weights(messages: Sequence[Message], train_on_what: TrainOnWhat) -> list[float]:
    """Loss weight of each message's body, 0.0 for the untrained.

    A message's own `weight` (or `trainable: false`) replaces the 1.0 its mode gives; `customized` takes only those.

    Raises:
        InputError: a weight that is not a finite number, a weight where the mode trains nobody, or `customized`
            without a weight on every message.
    """
    selected = _selected(messages, train_on_what)
    if train_on_what is not TrainOnWhat.CUSTOMIZED and not any("weight" in m or "trainable" in m for m in messages):
        return [1.0 if one else 0.0 for one in selected]
    weights: list[float] = []
    for i, message in enumerate(messages):
        own = _own_weight(message, i)
        if train_on_what is TrainOnWhat.CUSTOMIZED:
            if own is None:
                raise InputError(
                    f"messages[{i}].weight",
                    "missing_weight",
                    "expected `weight` or `trainable` on every message when training is customized; got none",
                )
            weights.append(own)
        elif own and not selected[i] and message["role"] != "assistant":
            raise InputError(
                f"messages[{i}].weight",
                "weight_on_untrained_role",
                f"expected no weight on a {message['role']} message when training {train_on_what.value} "
                f"(use customized); got {own:g}",
            )
        else:
            weights.append((1.0 if own is None else own) if selected[i] else 0.0)
    return weights


def _own_weight(message: Message, index: int) -> float | None:
    weight = message.get("weight")
    if weight is None:
        trainable = message.get("trainable")
        return None if trainable is None else float(trainable)
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not math.isfinite(weight):
        raise InputError(f"messages[{index}].weight", "bad_weight", f"expected a finite number; got {weight!r}")
    if message.get("trainable") is False:
        return 0.0
    return float(weight)


def _selected(messages: Sequence[Message], mode: TrainOnWhat) -> list[bool]:
    roles = [message["role"] for message in messages]
    last = len(roles) - 1
    if mode is TrainOnWhat.LAST_ASSISTANT_MESSAGE:
        return [i == last and role == "assistant" for i, role in enumerate(roles)]
    if mode is TrainOnWhat.LAST_ASSISTANT_TURN:
        # The turn is everything the assistant says after the last user message, tool results in between.
        last_user = max((i for i, role in enumerate(roles[:-1]) if role == "user"), default=-1)
        return [i > last_user and role == "assistant" for i, role in enumerate(roles)]
    if mode in _ASSISTANT_MODES:
        return [role == "assistant" for role in roles]
    if mode is TrainOnWhat.ALL_USER_AND_SYSTEM_MESSAGES:
        return [role in ("user", "system") for role in roles]
    return [True] * len(roles)

"""Which messages are trained, by mode and by the messages' own weights."""

from __future__ import annotations

import pytest

from renderers import InputError, TrainOnWhat
from renderers.train_on import message_weights

ROLES = ["system", "user", "assistant", "tool", "assistant", "user", "assistant", "assistant"]
MESSAGES = [{"role": role, "content": "x"} for role in ROLES]


@pytest.mark.parametrize(
    ("mode", "trained"),
    [
        ("last_assistant_message", [7]),
        ("last_assistant_turn", [6, 7]),
        ("all_assistant_messages", [2, 4, 6, 7]),
        ("all_messages", list(range(8))),
        ("all_tokens", list(range(8))),
        ("all_user_and_system_messages", [0, 1, 5]),
    ],
)
def test_modes(mode: str, trained: list[int]) -> None:
    weights = message_weights(MESSAGES, TrainOnWhat(mode))
    assert [i for i, weight in enumerate(weights) if weight] == trained


def test_last_message_of_the_user_trains_nothing() -> None:
    assert not any(message_weights(MESSAGES[:6], TrainOnWhat.LAST_ASSISTANT_MESSAGE))
    # The final message does not count as the user's last one: the turn before it is still the last turn.
    assert message_weights(MESSAGES[:6], TrainOnWhat.LAST_ASSISTANT_TURN) == [0, 0, 1, 0, 1, 0]


def test_own_weights_replace_one() -> None:
    messages = [
        {"role": "user", "content": "a", "weight": 0},
        {"role": "assistant", "content": "b", "weight": 0.25},
        {"role": "assistant", "content": "c", "trainable": False},
        {"role": "assistant", "content": "d", "trainable": True},
        {"role": "assistant", "content": "e", "weight": -2},
    ]
    assert message_weights(messages, TrainOnWhat.ALL_ASSISTANT_MESSAGES) == [0, 0.25, 0, 1, -2]
    assert message_weights(messages, TrainOnWhat.CUSTOMIZED) == [0, 0.25, 0, 1, -2]
    assert message_weights(messages, TrainOnWhat.LAST_ASSISTANT_MESSAGE) == [0, 0, 0, 0, -2]


@pytest.mark.parametrize(
    ("message", "mode", "reason"),
    [
        ({"role": "user", "weight": 1}, "all_assistant_messages", "weight_on_untrained_role"),
        ({"role": "user", "trainable": True}, "all_assistant_messages", "weight_on_untrained_role"),
        ({"role": "assistant", "weight": float("nan")}, "all_assistant_messages", "bad_weight"),
        ({"role": "assistant", "weight": "1"}, "all_assistant_messages", "bad_weight"),
        ({"role": "assistant", "weight": True}, "all_assistant_messages", "bad_weight"),
        ({"role": "assistant"}, "customized", "missing_weight"),
    ],
)
def test_weights_that_mean_nothing_are_refused(message: dict[str, object], mode: str, reason: str) -> None:
    with pytest.raises(InputError) as caught:
        message_weights([{"content": "x", **message}], TrainOnWhat(mode))  # type: ignore[list-item]
    assert caught.value.reason == reason
    assert caught.value.field == "messages[0].weight"

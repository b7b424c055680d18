from __future__ import annotations

from typing import Any

import pytest

from renderers import Conversation, RefusedError, get_renderer
from tests.renderers.families.tiny import shown, tiny_tokenizer

CONTROLS = (
    "<s>", "</s>", "[INST]", "[/INST]", "[TOOL_CALLS]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]",
    "[/TOOL_RESULTS]",
)  # fmt: skip
TOKENIZER = tiny_tokenizer(CONTROLS, bos="<s>", eos="</s>")
MISTRAL = get_renderer("mistral", TOKENIZER)
USER, YES = {"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Yes"}
SYSTEM = {"role": "system", "content": "Be kind"}


def call(call_id: str | None) -> dict[str, Any]:
    return {"type": "function", "id": call_id, "function": {"name": "f", "arguments": {}}}


def test_system_text_stands_in_the_last_user_message_of_a_prompt() -> None:
    tokens = MISTRAL.build_generation_prompt([SYSTEM, USER, YES, USER]).to_ints()
    assert shown(MISTRAL, tokens) == "<s>[INST]Hi[/INST]Yes</s>[INST]Be kind\n\nHi[/INST]"


def test_an_answer_after_system_text_is_written_unlike_its_prompt() -> None:
    block = MISTRAL.render_block([Conversation([SYSTEM, USER, YES])])
    assert [(r.turn, r.reason) for r in block.refusals] == [(2, "prompt_disagrees")]
    assert len(block) == 0


def test_without_system_and_tools_all_turns_share_a_sequence() -> None:
    (example,) = MISTRAL.render([USER, YES, USER, YES])
    assert shown(MISTRAL, example.tokens) == "<s>[INST]Hi[/INST]Yes</s>[INST]Hi[/INST]Yes</s>"
    assert shown(MISTRAL, example.tokens[example.weights > 0]) == "Yes</s>Yes</s>"


def test_tools_move_to_the_last_user_message_so_turns_are_split() -> None:
    tools = [{"type": "function", "function": {"name": "f"}}]
    hello = {"role": "user", "content": "Hello"}
    first, second = MISTRAL.render([USER, YES, hello, YES], tools=tools)
    declared = '[AVAILABLE_TOOLS][{"type": "function", "function": {"name": "f"}}][/AVAILABLE_TOOLS]'
    assert shown(MISTRAL, first.tokens) == f"<s>{declared}[INST]Hi[/INST]Yes</s>"
    assert shown(MISTRAL, second.tokens) == f"<s>[INST]Hi[/INST]Yes</s>{declared}[INST]Hello[/INST]Yes</s>"


@pytest.mark.parametrize(
    ("messages", "place"),
    [
        ([USER, USER], "messages[1].role: the chat template refuses it: after the optional system message"),
        ([SYSTEM, YES], "messages[1].role"),
        ([USER, SYSTEM], "messages[1].role"),
        ([USER, {"role": "assistant", "tool_calls": [call("short")]}], "messages[1].tool_calls[0].id"),
        ([USER, {"role": "assistant", "tool_calls": [call(None)]}], "messages[1].tool_calls[0].id"),
        ([USER, {"role": "tool", "content": "21", "tool_call_id": "1"}], "messages[1].tool_call_id"),
        ([USER, {"role": "assistant"}, USER], "messages[1].content"),
    ],
)
def test_refusals_name_the_place(messages: list[Any], place: str) -> None:
    with pytest.raises(RefusedError) as caught:
        MISTRAL.build_generation_prompt(messages)
    assert str(caught.value).startswith(place)


def test_training_on_system_text_that_is_not_shown_is_refused() -> None:
    with pytest.raises(RefusedError, match=r"messages\[0\]: the template shows nothing of this message"):
        MISTRAL.render([SYSTEM, USER, YES], "all_user_and_system_messages")

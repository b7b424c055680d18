"""Every form of row, and what it becomes."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from datasets_io import FORMATS, convert_row, parse_mapping
from datasets_io.chat import CHAT_ROLES, is_plain, normalise_messages
from renderers import InputError, OptionError

Q = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "a"}
CALL = {"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
CALLING = {"role": "assistant", "tool_calls": [CALL]}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}


def one(row: dict[str, Any], mapping: str | None = None) -> tuple[str, Any]:
    name, (conversation,) = convert_row(row, "t:1", parse_mapping(mapping) if mapping else None)
    assert name in FORMATS
    return name, conversation


def openai(*messages: dict[str, Any], **row: Any) -> dict[str, Any]:
    return {"messages": [*messages], **row}


MESSAGES: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"role": "user", "content": ""}, {"role": "user", "content": ""}),
    ({"role": "developer", "content": "d"}, {"role": "developer", "content": "d"}),
    ({"role": "function", "name": "f", "content": "r"}, {"role": "tool", "content": "r", "name": "f"}),
    (
        {"role": "tool", "tool_call_id": "c", "content": [{"type": "text", "text": "r"}]},
        {"role": "tool", "content": "r", "tool_call_id": "c"},
    ),
    ({"role": "assistant", "content": None, "tool_calls": [CALL]}, CALLING),
    ({"role": "assistant", "tool_calls": [CALL], "function_call": None}, CALLING),
    (
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
    ),
    ({"role": "assistant", "tool_calls": [{"function": {"name": "f", "arguments": '{"x": 1}'}}]}, CALLING),
    ({"role": "assistant", "tool_calls": [{"name": "f", "arguments": {"x": 1}}]}, CALLING),
    (
        {"role": "assistant", "tool_calls": [{"id": "c", "index": 0, **CALL}]},
        {"role": "assistant", "tool_calls": [{"type": "function", "id": "c", "function": CALL["function"]}]},
    ),
    ({"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": '{"x": 1}'}}, CALLING),
    ({"role": "assistant", "content": "a", "tool_calls": [], "refusal": None, "audio": None, "extra": None}, A),
    ({"role": "assistant", "content": "a", "annotations": [], "id": "m1"}, A),
    (
        {"role": "assistant", "content": "a", "reasoning_content": "r", "reasoning": "r"},
        {"role": "assistant", "content": "a", "reasoning_content": "r"},
    ),
    (
        {"role": "assistant", "content": "a", "thinking": "t"},
        {"role": "assistant", "content": "a", "reasoning_content": "t"},
    ),
    (
        {"role": "assistant", "content": "", "reasoning": "t"},
        {"role": "assistant", "content": "", "reasoning_content": "t"},
    ),
    ({"role": "user", "content": "q", "reasoning_content": "", "tool_call_id": ""}, Q),
    ({"role": "user", "content": "q", "name": "n"}, {"role": "user", "content": "q", "name": "n"}),
    *[
        (
            {"role": "user", "content": [{"type": kind, "text": "a"}, {"type": "text", "value": "b"}]},
            {**Q, "content": "ab"},
        )
        for kind in ("text", "input_text", "output_text")
    ],
    *[
        (
            {"role": "assistant", "content": [{"type": kind, key: "t"}, {"type": "text", "text": "a"}]},
            {"role": "assistant", "content": "a", "reasoning_content": "t"},
        )
        for kind, key in (
            ("thinking", "thinking"),
            ("reasoning", "reasoning"),
            ("reasoning", "text"),
            ("reasoning", "value"),
        )
    ],
    (
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "t"}]},
        {"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "thinking", "thinking": "t"}]},
    ),
    (
        {
            "role": "assistant",
            "content": [
                {"type": "reasoning", "value": "t"},
                {"type": "tool_call", "value": '{"name": "f", "arguments": {"x": 1}}'},
            ],
        },
        {"role": "assistant", "reasoning_content": "t", "tool_calls": [CALL]},
    ),
    *[
        (
            {"role": "user", "content": [{"type": "text", "text": "q"}, image]},
            {"role": "user", "content": [{"type": "text", "text": "q"}, {"type": "image", "image": "i.png"}]},
        )
        for image in (
            {"type": "image_url", "image_url": {"url": "i.png", "detail": "low"}},
            {"type": "image_url", "image_url": "i.png"},
            {"type": "input_image", "image_url": "i.png"},
            {"type": "image", "image": "i.png"},
            {"type": "image", "url": "i.png"},
            {"type": "image", "path": "i.png", "image": None},
        )
    ],
    ({**A, "weight": 1}, {**A, "weight": 1.0}),
    ({**A, "loss_weight": 0.5, "weight": 0.5}, {**A, "weight": 0.5}),
    ({**A, "weight": None}, A),
    ({**A, "trainable": True}, {**A, "trainable": True}),
    ({**A, "train": 0}, {**A, "trainable": False}),
    ({**A, "masked": True, "training": False}, {**A, "trainable": False}),
    ({**A, "masked": False}, {**A, "trainable": True}),
]


@pytest.mark.parametrize(("given", "expected"), MESSAGES)
def test_a_message(given: dict[str, Any], expected: dict[str, Any]) -> None:
    name, conversation = one(openai(given, A))
    assert name == "openai"
    assert conversation.messages == [expected, A]


def test_the_fast_path_takes_what_the_full_one_returns_unchanged() -> None:
    candidates = [[given, A] for given, _ in MESSAGES] + [[Q, A], [A], [Q], [], [{**A, "content": ""}], [1], None, {}]
    candidates += [[{"role": role, "content": "x"}, A] for role in (*CHAT_ROLES, "bot", None, 1, [], {})]
    plain = [messages for messages in candidates if is_plain(messages)]
    assert len(plain) == 9  # the empty user turn, developer, [Q, A], [A], and one for each of the five roles
    for messages in plain:
        assert normalise_messages(messages, "messages", CHAT_ROLES, Counter()) == messages


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        *[({"from": role, "value": "q"}, Q) for role in ("human", "user")],
        *[({"from": role, "value": "a"}, A) for role in ("gpt", "assistant", "chatgpt", "bing")],
        ({"from": "system", "value": "s"}, {"role": "system", "content": "s"}),
        *[({"from": role, "value": "r"}, {"role": "tool", "content": "r"}) for role in ("observation", "tool")],
        ({"from": "function_call", "value": '{"name": "f", "arguments": {"x": 1}}'}, CALLING),
        ({"from": "function_call", "value": '{"name": "f", "arguments": "{\\"x\\": 1}"}'}, CALLING),
        (
            {
                "from": "function_call",
                "value": '[{"name": "f", "arguments": {"x": 1}}, {"name": "f", "arguments": {"x": 1}}]',
            },
            {"role": "assistant", "tool_calls": [CALL, CALL]},
        ),
        ({"from": "gpt", "value": "a", "weight": 0}, {**A, "weight": 0.0}),
    ],
)
def test_a_sharegpt_turn_in_both_spellings(turn: dict[str, Any], expected: dict[str, Any]) -> None:
    last = {"from": "gpt", "value": "a"}
    assert one({"conversations": [turn, last]})[1].messages == [expected, A]
    renamed = [
        {"role": t["from"], "content": t["value"], **{k: v for k, v in t.items() if k == "weight"}}
        for t in (turn, last)
    ]
    name, conversation = one({"conversations": renamed})
    assert name == "sharegpt_roles"
    assert conversation.messages == [expected, A]


S = {"role": "system", "content": "s"}
PREVIOUS = [{"role": "user", "content": "1"}, {"role": "assistant", "content": "2"}]


@pytest.mark.parametrize(
    ("row", "name", "messages"),
    [
        (openai(Q, A), "openai", [Q, A]),
        (openai(Q, A, system="s"), "openai", [S, Q, A]),
        (openai(Q, A, system=""), "openai", [Q, A]),
        (
            {"messages": None, "conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]},
            "sharegpt",
            [Q, A],
        ),
        ({"messages": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}]}, "sharegpt", [Q, A]),
        (
            {"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a"}], "system": "s"},
            "sharegpt",
            [S, Q, A],
        ),
        ({"conversation": [Q, A]}, "sharegpt_roles", [Q, A]),
        (
            {"conversation": [{"human": "1", "assistant": "2"}, {"human": "q", "assistant": "a"}]},
            "sharegpt_pairs",
            [*PREVIOUS, Q, A],
        ),
        ({"instruction": "q", "output": "a"}, "alpaca", [Q, A]),
        ({"instruction": "q", "input": "", "output": "a", "history": []}, "alpaca", [Q, A]),
        ({"instruction": "", "input": "q", "output": "a"}, "alpaca", [Q, A]),
        ({"instruction": "i", "input": "j", "output": "a"}, "alpaca", [{"role": "user", "content": "i\nj"}, A]),
        ({"instruction": "q", "output": "a", "history": [["1", "2"]], "system": "s"}, "alpaca", [S, *PREVIOUS, Q, A]),
        ({"prompt": "q", "completion": "a"}, "prompt_completion", [Q, A]),
        ({"prompt": [S, Q], "completion": [A]}, "prompt_completion", [S, Q, A]),
        ({"prompt": "q", "completion": A, "system": "s"}, "prompt_completion", [S, Q, A]),
    ],
)
def test_a_row(row: dict[str, Any], name: str, messages: list[Any]) -> None:
    found, conversation = one(row)
    assert (found, conversation.messages) == (name, messages)
    assert not any(conversation.metadata.values())


GPT = {"from": "gpt", "value": "a"}
BAD = {"role": "assistant", "content": "b"}


@pytest.mark.parametrize(
    ("row", "context"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": "b"}, [Q]),
        ({"prompt": [S, Q], "chosen": [A], "rejected": [BAD]}, [S, Q]),
        ({"messages": [S, Q], "chosen": A, "rejected": "b"}, [S, Q]),
        (
            {
                "conversations": [{"from": "human", "value": "q"}],
                "chosen": GPT,
                "rejected": {"from": "gpt", "value": "b"},
            },
            [Q],
        ),
        ({"instruction": "q", "input": "", "chosen": "a", "rejected": "b", "system": "s"}, [S, Q]),
        ({"chosen": [Q, A], "rejected": [Q, BAD]}, [Q]),
        ({"prompt": "q", "chosen": [Q, A], "rejected": [Q, BAD]}, [Q]),
    ],
)
def test_a_preference_row_gives_two_linked_conversations(row: dict[str, Any], context: list[Any]) -> None:
    name, (chosen, rejected) = convert_row(row, "train.jsonl:17")
    assert name == "preference"
    assert chosen.messages == [*context, A]
    assert rejected.messages == [*context, BAD]
    assert (chosen.metadata["side"], rejected.metadata["side"]) == ("chosen", "rejected")
    assert chosen.metadata["pair"] == rejected.metadata["pair"] == "train.jsonl:17"
    assert all(x is not y for x, y in zip(chosen.messages, rejected.messages, strict=True))


@pytest.mark.parametrize(
    ("tools", "expected"),
    [
        ([TOOL], [TOOL]),
        (
            '[{"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}]',
            [TOOL],
        ),
        ('[{"name": "f", "description": "d", "parameters": {"type": "object"}}]', [TOOL]),
        ([{"function": TOOL["function"]}], [TOOL]),
        *[(nothing, None) for nothing in (None, [], "", " ", "[]", "null")],
    ],
)
@pytest.mark.parametrize("column", ["tools", "functions"])
def test_tools(tools: Any, expected: Any, column: str) -> None:
    assert one(openai(Q, A, **{column: tools}))[1].tools == expected


def test_what_stands_beside_the_messages() -> None:
    conversation = one(openai(Q, A, id=7, topic="t", score=None))[1]
    assert (conversation.id, conversation.metadata) == ("7", {"topic": "t", "score": None})
    assert one(openai(Q, A, id=["x"]))[1].metadata == {"id": ["x"]}


@pytest.mark.parametrize(
    ("mapping", "messages"),
    [
        ("user=question,assistant=answer", [Q, A]),
        ("user=question, assistant=answer, system=persona", [S, Q, A]),
        ("user=question,assistant=answer,system=absent", [Q, A]),
        ("user=one,assistant=two,user=question,assistant=answer", [*PREVIOUS, Q, A]),
    ],
)
def test_mapped_columns(mapping: str, messages: list[Any]) -> None:
    row = {"question": "q", "answer": "a", "persona": "s", "one": "1", "two": "2"}
    name, conversation = one(row, mapping)
    assert (name, conversation.messages) == ("mapped", messages)
    assert set(conversation.metadata).isdisjoint({"question", "answer"})


def test_renamed_columns() -> None:
    name, conversation = one(
        {"dialog": [Q, A], "uid": "u", "declared": [TOOL]}, "messages=dialog,id=uid,tools=declared"
    )
    assert (name, conversation.id, conversation.tools) == ("openai", "u", [TOOL])
    name, (chosen, _) = convert_row(
        {"q": "q", "good": "a", "bad": "b"}, "t:1", parse_mapping("prompt=q,chosen=good,rejected=bad")
    )
    assert (name, chosen.messages) == ("preference", [Q, A])


@pytest.mark.parametrize(
    "text",
    [
        "",
        "user",
        "user=",
        "bot=x",
        "user=q",
        "assistant=a",
        "assistant=a,user=q",
        "messages=a,messages=b",
        "user=q,assistant=a,prompt=p",
        "system=a,system=b,user=q,assistant=c",
    ],
)
def test_a_mapping_that_means_nothing_is_refused(text: str) -> None:
    with pytest.raises(OptionError, match=r"^map: expected "):
        parse_mapping(text)


def test_dropped_keys_are_counted() -> None:
    ignored: Counter[str] = Counter()
    parts = [
        {"type": "text", "text": "q", "cache_control": {}},
        {"type": "image_url", "image_url": {"url": "u", "detail": "low"}},
    ]
    convert_row(openai({"role": "user", "content": parts, "id": "x"}, A), ignored=ignored)
    assert ignored == {"cache_control": 1, "detail": 1, "id": 1}


def test_faults_name_the_callers_own_keys() -> None:
    with pytest.raises(InputError, match=r"^conversations\[1\]\.from: expected one of .*; got 'bot'$"):
        convert_row({"conversations": [{"from": "human", "value": "q"}, {"from": "bot", "value": "a"}]})
    with pytest.raises(InputError, match=r"^conversations\[0\]\.value\[0\]\.type: expected one of .*; got 'video'$"):
        convert_row({"conversations": [{"from": "human", "value": [{"type": "video"}]}]})
    with pytest.raises(InputError, match=r"^chosen\.role: expected one of "):
        convert_row({"prompt": "q", "chosen": {"role": "bot", "content": "a"}, "rejected": "b"})

"""Seeded conversations for comparing renderers with chat templates: one generator per kind of trouble."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from typing import Any

__all__ = ["CASES", "Case", "conversations"]

Message = dict[str, Any]
Case = tuple[list[Message], list[dict[str, Any]] | None]
"""Messages and tool declarations."""

PLAIN = ["Hello there", "What is 12 * 34?", "It is 408.", "a\tb", "Line one\nline two", "plain 123 456", "x"]
EDGES = [
    "  lead",
    "trail  ",
    "\n\nstart",
    "end\n\n",
    " ",
    "\n",
    "\n\n\n",
    "\t tab \t",
    "a\r\n",
    "\u3000wide\u00a0",
    "\x1f\x1c",
]
WORLD = [
    "中文，混合English文字。",
    "e\u0301\u0323 cafe\u0301",
    "👩‍👩‍👧 family 🇩🇪",
    "नमस्ते",
    "שלום \u200f",
    "ﬁ ½ Å",
    "한국어\n日本語",
]
THINKS = [
    "<think>\nhm\n</think>\n\nyes",
    "<think>hm</think>yes",
    "<think>\n\n</think>\n\nno",
    "no opening</think> after",
    "<think>never closed",
    "two <think>a</think> and <think>\nb\n</think>\n\nend",
    "\n<think>\nlate\n</think>",
    "<think></think>",
    "the </think> tag alone",
]
REASONS = ["because", "\nsteps\n", "  padded  ", "因为\n\n所以", "", "has </think> inside", "\n", "1. a\n2. b"]
TYPED = [
    "<tool_response>\nfake\n</tool_response>",
    "<tool_response> x </tool_response>",
    "/think hello",
    "ask /nothink",
    "/no_think",
]
NAMES = ["get_weather", "f", "search-web", "naïve", "ns.sub_fn"]
VALUES: list[Any] = [
    "Berlin", "北京", "", "  padded ", "two\nlines", 'quote " and \\', "<b>&'", 0, -3.5, 1e21, 10**20, True, False,
    None, [], [1, [2, "三"]], {}, {"ключ": {"é": [None, "x"]}}, ["a", {"b": "c"}],
]  # fmt: skip
KEYS = ["city", "ключ", "a b", "n", "x<y"]


def _text(rng: random.Random, *pools: list[str]) -> str:
    return rng.choice(rng.choice(pools))


def _chat(rng: random.Random, pick: Callable[[], str], turns: int | None = None) -> list[Message]:
    messages: list[Message] = [{"role": "system", "content": pick()}] if rng.random() < 0.4 else []
    for _ in range(turns or rng.randint(1, 4)):
        messages.append({"role": "user", "content": pick()})
        messages.append({"role": "assistant", "content": pick()})
    return messages


def plain(rng: random.Random) -> Case:
    return _chat(rng, lambda: _text(rng, PLAIN)), None


def edge_whitespace(rng: random.Random) -> Case:
    return _chat(rng, lambda: _text(rng, EDGES, EDGES, PLAIN)), None


def world_text(rng: random.Random) -> Case:
    return _chat(rng, lambda: _text(rng, WORLD, WORLD, PLAIN) + rng.choice(["", " ", "\n", "！"])), None


def inline_think(rng: random.Random) -> Case:
    messages = _chat(rng, lambda: _text(rng, PLAIN, EDGES))
    for message in messages:
        if rng.random() < (0.8 if message["role"] == "assistant" else 0.1):
            message["content"] = rng.choice(THINKS)
    return messages, None


def reasoning(rng: random.Random) -> Case:
    messages = _chat(rng, lambda: _text(rng, PLAIN, PLAIN, EDGES))
    for message in messages:
        if message["role"] == "assistant" and rng.random() < 0.7:
            message["reasoning_content"] = rng.choice(REASONS)
            if rng.random() < 0.15:
                message["content"] = rng.choice(THINKS)
    return messages, None


def _arguments(rng: random.Random) -> dict[str, Any]:
    return {key: rng.choice(VALUES) for key in rng.sample(KEYS, rng.randint(0, 3))}


def _call(rng: random.Random, number: int) -> dict[str, Any]:
    call: dict[str, Any] = {"type": "function", "function": {"name": rng.choice(NAMES), "arguments": _arguments(rng)}}
    if rng.random() < 0.9:
        call["id"] = f"call{number:05d}"
    return call


def _schema(rng: random.Random) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key in rng.sample(KEYS, rng.randint(0, 3)):
        field: dict[str, Any] = {"type": rng.choice(["string", "integer", "boolean", "number"])}
        if rng.random() < 0.6:
            field["description"] = rng.choice([*PLAIN, *WORLD, *EDGES])
        if rng.random() < 0.3:
            field["enum"] = rng.sample(["a", "ü", "c"], 2)
        if rng.random() < 0.2:
            field = {"type": "array", "items": field}
        elif rng.random() < 0.2:
            field = {"type": "object", "properties": {"inner": field}, "required": ["inner"]}
        elif rng.random() < 0.2:
            field |= rng.choice(
                [{"default": 3}, {"default": None}, {"default": "é"}, {"nullable": True}, {"minimum": 0.5}]
            )
        fields[key] = field
    return {"type": "object", "properties": fields, "required": list(fields)[:1]}


def _tool(rng: random.Random, name: str) -> dict[str, Any]:
    function: dict[str, Any] = {
        "name": name,
        "description": rng.choice([*PLAIN, *WORLD, *EDGES]),
        "parameters": _schema(rng),
    }
    if rng.random() < 0.1:
        del function["parameters"]["required"]
    if rng.random() < 0.1:
        function["parameters"]["additionalProperties"] = False
    if rng.random() < 0.1:
        function["strict"] = True
    if rng.random() < 0.05:
        function.pop("parameters")
    if rng.random() < 0.05:
        function.pop("description")
    return {"type": "function", "function": function}


def _declared(rng: random.Random) -> list[dict[str, Any]] | None:
    if rng.random() < 0.15:
        return [] if rng.random() < 0.5 else None
    return [_tool(rng, name) for name in rng.sample(NAMES, rng.randint(1, 3))]


def _called(rng: random.Random, most: int) -> list[Message]:
    """A question, one or more rounds of calls and results, usually an answer."""
    messages: list[Message] = [{"role": "user", "content": _text(rng, PLAIN, WORLD)}]
    for step in range(rng.randint(1, 2)):
        calls = [_call(rng, 10 * step + k) for k in range(rng.randint(1, most))]
        message: Message = {"role": "assistant", "tool_calls": calls}
        if rng.random() < 0.8:
            message["content"] = _text(rng, PLAIN, ["", "", "\n", " "], WORLD)
        if rng.random() < 0.3:
            message["reasoning_content"] = rng.choice(REASONS)
        messages.append(message)
        for call in calls:
            result: Message = {"role": "tool", "content": _text(rng, PLAIN, EDGES, WORLD, ['{"t": 21}', ""])}
            if "id" in call:
                result["tool_call_id"] = call["id"]
            if rng.random() < 0.5:
                result["name"] = call["function"]["name"]
            messages.append(result)
    if rng.random() < 0.7:
        messages.append({"role": "assistant", "content": _text(rng, PLAIN, WORLD)})
    return messages


def _tool_chat(rng: random.Random, most: int) -> Case:
    messages: list[Message] = [{"role": "system", "content": _text(rng, PLAIN, EDGES)}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(1, 2)):
        messages += _called(rng, most)
    return messages, _declared(rng)


def tools(rng: random.Random) -> Case:
    return _tool_chat(rng, 1)


def parallel_calls(rng: random.Random) -> Case:
    return _tool_chat(rng, 3)


def text_arguments(rng: random.Random) -> Case:
    messages, declared = _tool_chat(rng, 2)
    for message in messages:
        for call in message.get("tool_calls", ()):
            if rng.random() < 0.8:
                call["function"]["arguments"] = rng.choice(
                    ["{}", '{"city": "北京", "n": [1, 2]}', '{"a":1}', "not json", ""]
                )
    return messages, declared


def tools_declared_only(rng: random.Random) -> Case:
    return _chat(rng, lambda: _text(rng, PLAIN, EDGES)), _declared(rng)


def empty_content(rng: random.Random) -> Case:
    messages = _chat(rng, lambda: rng.choice(["", "", "Hello"]))
    for message in messages:
        if rng.random() < 0.1:
            del message["content"]
    return messages, None


def content_parts(rng: random.Random) -> Case:
    messages = _chat(rng, lambda: _text(rng, PLAIN, EDGES))
    for message in messages:
        if rng.random() < 0.6:
            texts = [_text(rng, PLAIN, EDGES, WORLD, [""]) for _ in range(rng.randint(0, 3))]
            message["content"] = [{"type": "text", "text": text} for text in texts]
            if message["role"] == "assistant" and rng.random() < 0.5:
                thought = {"type": "thinking", "thinking": rng.choice(REASONS)}
                message["content"].insert(rng.randint(0, len(texts)), thought)
    return messages, None


def same_role(rng: random.Random) -> Case:
    messages = _chat(rng, lambda: _text(rng, PLAIN, EDGES))
    return [copy for message in messages for copy in [message] * rng.choice([1, 1, 2, 3])], None


def odd_system(rng: random.Random) -> Case:
    messages = _chat(rng, lambda: _text(rng, PLAIN))
    for _ in range(rng.randint(1, 2)):
        role = rng.choice(["system", "system", "developer"])
        messages.insert(rng.randint(0, len(messages)), {"role": role, "content": _text(rng, PLAIN, EDGES)})
    return messages, _declared(rng) if rng.random() < 0.4 else None


def odd_order(rng: random.Random) -> Case:
    roles = ["user", "assistant", "tool", "system"]
    messages: list[Message] = []
    for k in range(rng.randint(1, 6)):
        message: Message = {"role": rng.choices(roles, [3, 3, 2, 1])[0], "content": _text(rng, PLAIN, EDGES, TYPED)}
        if message["role"] == "assistant" and rng.random() < 0.3:
            message["tool_calls"] = [_call(rng, k)]
        messages.append(message)
    return messages, _declared(rng) if rng.random() < 0.3 else None


def many_turns(rng: random.Random) -> Case:
    return _chat(rng, lambda: _text(rng, PLAIN, WORLD, EDGES), turns=rng.randint(5, 20)), None


def typed_markers(rng: random.Random) -> Case:
    """Words that templates give a meaning, typed by people."""
    messages = _chat(rng, lambda: _text(rng, TYPED, THINKS, PLAIN))
    return messages, None


def control_tokens(rng: random.Random) -> Case:
    """Text of control tokens inside content; compared with these tokens live."""
    marks = ["<|im_end|>", "<|im_start|>user\n", "<|eot_id|>", "<|user|>", "<|end|>", "</s>", "[INST]", "<|endoftext|>"]
    return _chat(rng, lambda: _text(rng, PLAIN, EDGES) + rng.choice(marks) + _text(rng, PLAIN, EDGES)), None


def mixed(rng: random.Random) -> Case:
    """Everything at once."""
    messages, declared = _tool_chat(rng, 3)
    messages += reasoning(rng)[0] + inline_think(rng)[0]
    return [m for i, m in enumerate(messages) if i == 0 or m["role"] != "system"], declared


CASES: dict[str, Callable[[random.Random], Case]] = {
    function.__name__: function
    for function in (
        plain, edge_whitespace, world_text, inline_think, reasoning, tools, parallel_calls, text_arguments,
        tools_declared_only, empty_content, content_parts, same_role, odd_system, odd_order, many_turns, typed_markers,
        control_tokens, mixed,
    )
}  # fmt: skip
"""Kinds of conversation by name."""


def conversations(case: str, count: int, seed: int = 0) -> Iterator[Case]:
    """`count` conversations of one kind, the same for the same seed."""
    rng = random.Random(f"{case}/{seed}")
    for _ in range(count):
        yield CASES[case](rng)

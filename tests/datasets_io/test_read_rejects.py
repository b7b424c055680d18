"""One fault per row: where it is, what it is called, and that nothing else is lost."""

from __future__ import annotations

import base64
import json
import logging
import random
import re
from pathlib import Path
from typing import Any

import orjson
import pytest

from datasets_io import (
    Block,
    ReadOptions,
    Reject,
    expand_inputs,
    format_reject,
    iter_blocks,
    parse_block,
    parse_mapping,
    read_conversations,
)
from renderers import InputError

Q = {"role": "user", "content": "q"}
A = {"role": "assistant", "content": "a"}
GOOD = json.dumps({"messages": [Q, A]}).encode()


def chat(*messages: Any, **row: Any) -> bytes:
    return json.dumps({"messages": [*messages], **row}).encode()


def calling(**call: Any) -> bytes:
    return chat(Q, {"role": "assistant", "content": None, "tool_calls": [call]})


def said(role: str, **fields: Any) -> bytes:
    return chat(Q, {"role": role, **fields}, A)


CASES: list[tuple[bytes, str, str]] = [
    (b'{"messages": [}', "invalid_json", ""),
    (b'{"messages": "\x01"}', "invalid_json", ""),
    (b"{'a': 1}", "invalid_json", ""),
    (b"{} {}", "invalid_json", ""),
    (b'{"messages": "caf\xe9"}', "invalid_utf8", ""),
    (b'{"messages": [{"role": "user", "content": "\\ud83d"}]}', "lone_surrogate", "messages[0].content"),
    (b'{"\\udc00": 1}', "lone_surrogate", ""),
    (b'{"a": NaN}', "number_range", ""),
    (b'{"a": -Infinity}', "number_range", ""),
    (b'{"a": 1e999}', "number_range", ""),
    (b'{"a": ' + b"1" * 5000 + b"}", "number_range", ""),
    (b"[" * 2000 + b"]" * 2000, "too_deep", ""),
    (b"[]", "not_an_object", ""),
    (b"null", "not_an_object", ""),
    (b'"text"', "not_an_object", ""),
    (b"{}", "unknown_format", ""),
    (b'{"question": "q", "answer": "a"}', "unknown_format", ""),
    (b'{"messages": null}', "unknown_format", ""),
    (b'{"messages": {}}', "bad_type", "messages"),
    (b'{"messages": "text"}', "bad_type", "messages"),
    (b'{"messages": []}', "no_messages", "messages"),
    (b'{"conversations": []}', "no_messages", "conversations"),
    (chat(Q), "no_assistant", "messages"),
    (chat(1, A), "bad_type", "messages[0]"),
    (chat(Q, {"role": "bot", "content": "a"}), "unknown_role", "messages[1].role"),
    (chat(Q, {"role": ["assistant"], "content": "a"}), "unknown_role", "messages[1].role"),
    (chat(Q, {"content": "a"}), "unknown_role", "messages[1].role"),
    (chat({"role": "user", "content": None}, A), "missing_content", "messages[0].content"),
    (chat({"role": "user"}, A), "missing_content", "messages[0].content"),
    (chat({"role": "user", "content": []}, A), "missing_content", "messages[0].content"),
    (chat(Q, {"role": "assistant"}), "missing_content", "messages[1].content"),
    (chat(Q, {"role": "assistant", "content": ""}), "empty_content", "messages[1].content"),
    (chat({"role": "user", "content": 5}, A), "bad_content", "messages[0].content"),
    (chat({"role": "user", "content": ["text"]}, A), "bad_content", "messages[0].content[0]"),
    (chat({"role": "user", "content": [{"type": "text", "text": 5}]}, A), "bad_content", "messages[0].content[0].text"),
    (chat({"role": "user", "content": [{"type": "image"}]}, A), "bad_content", "messages[0].content[0].image"),
    (chat({"role": "user", "content": [{"type": "video"}]}, A), "unknown_part", "messages[0].content[0].type"),
    (chat({"role": "user", "content": [{"text": "x"}]}, A), "unknown_part", "messages[0].content[0].type"),
    (
        chat({"role": "user", "content": [{"type": "text", "text": "x", "colour": 1}]}, A),
        "unknown_field",
        "messages[0].content[0].colour",
    ),
    (said("user", content="x", mood="glad"), "unknown_field", "messages[1].mood"),
    (said("assistant", content=None, refusal="no"), "unknown_field", "messages[1].refusal"),
    (said("user", content="x", name=5), "bad_type", "messages[1].name"),
    (said("user", content="x", reasoning_content="r"), "misplaced_field", "messages[1].reasoning_content"),
    (
        said("user", content="x", tool_calls=[{"name": "f", "arguments": {}}]),
        "misplaced_field",
        "messages[1].tool_calls",
    ),
    (said("user", content="x", tool_call_id="c"), "misplaced_field", "messages[1].tool_call_id"),
    (said("assistant", content="x", reasoning_content=5), "bad_type", "messages[1].reasoning_content"),
    (said("assistant", content="x", reasoning="r", thinking="s"), "conflict", "messages[1].thinking"),
    (said("assistant", content="x", weight="1"), "bad_weight", "messages[1].weight"),
    (said("assistant", content="x", weight=True), "bad_weight", "messages[1].weight"),
    (said("assistant", content="x", weight=10**400), "bad_weight", "messages[1].weight"),
    (said("assistant", content="x", trainable="yes"), "bad_weight", "messages[1].trainable"),
    (said("assistant", content="x", weight=1, loss_weight=0), "conflict", "messages[1].loss_weight"),
    (said("assistant", content="x", train=True, masked=True), "conflict", "messages[1].masked"),
    (said("assistant", tool_calls={}), "bad_type", "messages[1].tool_calls"),
    (calling(name="f", arguments="{"), "bad_tool_arguments", "messages[1].tool_calls[0].arguments"),
    (
        calling(function={"name": "f", "arguments": "{"}),
        "bad_tool_arguments",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        calling(function={"name": "f", "arguments": ""}),
        "bad_tool_arguments",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        calling(function={"name": "f", "arguments": "[1]"}),
        "bad_tool_arguments",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (
        calling(function={"name": "f", "arguments": [1]}),
        "bad_tool_arguments",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (calling(function={"name": "f"}), "bad_tool_arguments", "messages[1].tool_calls[0].function.arguments"),
    (
        calling(function={"name": "f", "arguments": '{"a": "\\ud800"}'}),
        "bad_tool_arguments",
        "messages[1].tool_calls[0].function.arguments",
    ),
    (calling(function={"arguments": {}}), "bad_tool_call", "messages[1].tool_calls[0].function.name"),
    (calling(function="f"), "bad_tool_call", "messages[1].tool_calls[0].function"),
    (
        calling(type="custom", function={"name": "f", "arguments": {}}),
        "bad_tool_call",
        "messages[1].tool_calls[0].type",
    ),
    (calling(id=5, function={"name": "f", "arguments": {}}), "bad_tool_call", "messages[1].tool_calls[0].id"),
    (calling(function={"name": "f", "arguments": {}, "x": 1}), "unknown_field", "messages[1].tool_calls[0].function.x"),
    (
        said("assistant", tool_calls=[{"name": "f", "arguments": {}}], function_call={"name": "f", "arguments": {}}),
        "conflict",
        "messages[1].function_call",
    ),
    (
        said("assistant", content=[{"type": "tool_call", "value": "{}"}, {"type": "text", "text": "x"}]),
        "bad_tool_call",
        "messages[1].content[0].value.name",
    ),
    (
        said(
            "assistant",
            content=[{"type": "tool_call", "value": {"name": "f", "arguments": {}}}, {"type": "text", "text": "x"}],
        ),
        "part_order",
        "messages[1].content[1].type",
    ),
    (chat(Q, A, tools="[{"), "bad_tools", "tools"),
    (chat(Q, A, tools={"a": 1}), "bad_tools", "tools"),
    (chat(Q, A, tools=[{"type": "function"}]), "bad_tools", "tools[0]"),
    (chat(Q, A, tools=[{"type": "function", "function": {}}]), "bad_tools", "tools[0].function.name"),
    (chat(Q, A, tools=[{"name": "f"}], functions=[{"name": "f"}]), "conflict", "functions"),
    (chat(Q, A, system=5), "bad_content", "system"),
    (chat({"role": "system", "content": "s"}, Q, A, system="t"), "conflict", "system"),
    (b'{"conversations": [{"from": "function_call", "value": "call f"}]}', "bad_tool_call", "conversations[0].value"),
    (b'{"conversations": [{"from": "function_call", "value": "[]"}]}', "bad_tool_call", "conversations[0].value"),
    (
        b'{"conversations": [{"from": "function_call", "value": "{\\"name\\": \\"f\\", \\"arguments\\": \\"x\\"}"}]}',
        "bad_tool_arguments",
        "conversations[0].value.arguments",
    ),
    (b'{"conversations": [{"from": "human", "value": "q", "role": "user"}]}', "conflict", "conversations[0].role"),
    (b'{"conversations": [{"from": "human"}]}', "missing_content", "conversations[0].value"),
    (b'{"conversations": [{"from": "human", "value": "q"}, 5]}', "bad_type", "conversations[1]"),
    (b'{"conversation": [{"human": "q"}]}', "missing_content", "conversation[0].assistant"),
    (b'{"conversation": [{"human": "q", "assistant": "a", "mood": 1}]}', "unknown_field", "conversation[0].mood"),
    (b'{"instruction": "", "input": "", "output": "a"}', "empty_content", "instruction"),
    (b'{"instruction": "q", "output": ""}', "empty_content", "output"),
    (b'{"instruction": "q", "output": null}', "missing_content", "output"),
    (b'{"instruction": "q", "output": "a", "history": [["x"]]}', "bad_type", "history[0]"),
    (b'{"instruction": "q", "output": "a", "history": {}}', "bad_type", "history"),
    (b'{"prompt": "q", "completion": 5}', "bad_content", "completion"),
    (b'{"prompt": [], "completion": "a"}', "no_messages", "prompt"),
    (b'{"prompt": "q", "completion": [{"role": "user", "content": "x"}]}', "no_assistant", "completion"),
    (b'{"chosen": "a", "rejected": "b"}', "no_prompt", "prompt"),
    (b'{"prompt": "q", "chosen": "a", "rejected": null}', "missing_content", "rejected"),
    (
        b'{"prompt": "q", "chosen": "a", "rejected": [{"role": "user", "content": "x"}]}',
        "conflict",
        "rejected",
    ),
]


def block_of(*rows: bytes) -> Block:
    return Block(0, "train.jsonl", 1, 0, b"".join(row + b"\n" for row in rows))


@pytest.mark.parametrize(("row", "reason", "field"), CASES)
def test_one_fault(row: bytes, reason: str, field: str) -> None:
    parsed = parse_block(block_of(GOOD, row, b"", GOOD))
    (reject,) = parsed.rejects
    assert (reject.reason, reject.field) == (reason, field), reject.detail
    assert (reject.source, reject.line, reject.offset, reject.raw) == ("train.jsonl", 2, len(GOOD) + 1, row)
    assert re.search(r"^expected .*; got", reject.detail), reject.detail
    assert [r.line for r in parsed.rows] == [1, 4]
    assert (parsed.num_read, parsed.num_blank) == (3, 1)
    line = json.loads(reject.to_json())
    assert base64.b64decode(line["row_base64"]) == row if "row_base64" in line else line["row"].encode() == row
    assert line | {"source": "train.jsonl", "line": 2, "reason": reason, "field": reject.field} == line


def table_rejects(tmp_path: Path) -> set[str]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    weighted = {"messages": [{**A, "weight": float("nan")}]}
    pq.write_table(pa.Table.from_pylist([weighted]), tmp_path / "nan.parquet")
    pq.write_table(pa.Table.from_pylist([{"messages": [Q, A], "image": b"\x89PNG"}]), tmp_path / "bytes.parquet")
    return {r.reason for r in rejects_of(tmp_path, "nan.parquet", "bytes.parquet")}


def rejects_of(folder: Path, *names: str, max_row_bytes: int = 1 << 20) -> list[Reject]:
    blocks = iter_blocks(expand_inputs([str(folder / name) for name in names]), 100, max_row_bytes)
    return [r for block in blocks for r in parse_block(block, ReadOptions(max_row_bytes=max_row_bytes)).rejects]


def test_every_reason_is_tested_and_documented(tmp_path: Path, repository: Path) -> None:
    (tmp_path / "cut.json").write_text('[{"messages": ')
    (tmp_path / "more.json").write_text("[] []")
    (tmp_path / "long.jsonl").write_text("x" * 300)
    tested = {reason for _, reason, _ in CASES} | table_rejects(tmp_path)
    tested |= {r.reason for r in rejects_of(tmp_path, "cut.json", "more.json", "long.jsonl", max_row_bytes=200)}
    mapped = parse_block(block_of(b'{"q": "x"}'), ReadOptions(parse_mapping("user=q,assistant=a"))).rejects
    tested |= {r.reason for r in mapped}
    section = (repository / "docs" / "messages.md").read_text().split("## Why a row is rejected")[1]
    assert set(re.findall(r"^\| `(\w+)` \|", section, re.MULTILINE)) == tested


def test_a_reject_reads_as_one_line() -> None:
    (reject,) = parse_block(block_of(GOOD, chat(Q, {"role": "bot", "content": "a"}))).rejects
    assert format_reject(reject) == (
        "train.jsonl:2: messages[1].role: expected one of system, developer, user, assistant, tool, function; got 'bot'"
    )
    (reject,) = parse_block(block_of(b'{"messages": [}')).rejects
    assert format_reject(reject).startswith("train.jsonl:1: expected JSON; got an error at line 1, column 15: ")


def test_line_and_column_inside_a_pretty_printed_array(tmp_path: Path) -> None:
    text = json.dumps([json.loads(GOOD)] * 3, indent=2).split("\n")
    broken = next(i for i, line in enumerate(text) if i > 15 and '"content"' in line)
    text[broken] = text[broken].replace('"content":', '"content" ')
    start = max(i for i in range(broken) if text[i] == "  {")
    for ending in ("\n", "\r\n"):
        path = tmp_path / "a.json"
        path.write_text(ending.join(text), newline="")
        (reject,) = rejects_of(tmp_path, "a.json")
        assert reject.line == start + 1
        column = text[broken].index('"content" ') + len('"content" ') + 2
        assert f"at line {broken + 1}, column {column}: " in reject.detail
        assert json.loads(reject.raw.replace(b'"content"  ', b'"content": ')) == json.loads(GOOD)


def test_a_line_break_inside_a_string_of_an_array_stays_a_fault(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"[" + GOOD.replace(b'"q"', b'"q\nr"') + b"]")
    (reject,) = rejects_of(tmp_path, "a.json")
    assert reject.reason == "invalid_json"


@pytest.mark.parametrize("number", [2**63, 2**64 - 1, 2**64, -(2**63) - 1, 10**30])
def test_integers_of_any_size_survive(number: int) -> None:
    text = json.dumps({"n": number})
    calls = [{"name": "f", "arguments": {"n": number}}, {"name": "f", "arguments": text}]
    row = chat(
        Q, {"role": "assistant", "tool_calls": calls}, serial=number, tools=json.dumps([{"name": "f", "n": number}])
    )
    (parsed,) = parse_block(block_of(row)).rows
    conversation = parsed.conversations[0]
    for call in conversation.messages[1]["tool_calls"]:
        assert call["function"]["arguments"] == {"n": number}
    assert conversation.metadata["serial"] == number
    assert conversation.tools is not None
    assert conversation.tools[0]["function"]["n"] == number


def test_empty_cells_of_a_table_are_absent_keys(tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    def row(**arguments: Any) -> dict[str, Any]:
        return {"messages": [Q, {"role": "assistant", "tool_calls": [{"name": "f", "arguments": arguments}]}]}

    pq.write_table(pa.Table.from_pylist([row(a="1"), row(b="2")]), tmp_path / "a.parquet")
    (block,) = iter_blocks(expand_inputs([str(tmp_path / "a.parquet")]))
    parsed = parse_block(block)
    found = [r.conversations[0].messages[1]["tool_calls"][0]["function"]["arguments"] for r in parsed.rows]
    assert found == [{"a": "1"}, {"b": "2"}]
    assert parsed.ignored_fields == {"null in a table": 6}


def test_pairs_on_one_line_of_an_array_have_names_of_their_own(tmp_path: Path) -> None:
    row = {"prompt": "q", "chosen": "a", "rejected": "b"}
    (tmp_path / "a.json").write_text(json.dumps([row, row]))
    names = [c.metadata["pair"] for c in read_conversations(str(tmp_path / "a.json"))]
    assert names[0] == names[1] != names[2] == names[3]


def test_read_conversations_reports_or_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "train.jsonl"
    path.write_bytes(GOOD + b"\n[]\n" + GOOD + b"\n")
    seen: list[Reject] = []
    assert len(list(read_conversations(str(path), on_reject=seen.append))) == 2
    assert [r.line for r in seen] == [2]
    with caplog.at_level(logging.WARNING):
        assert len(list(read_conversations([str(path)]))) == 2
    assert caplog.messages == [f"{path}:2: expected an object; got a list"]
    reader = read_conversations(str(path), strict=True)
    assert next(reader).messages == [Q, A]
    with pytest.raises(InputError, match=r"train\.jsonl:2: expected an object; got a list") as caught:
        next(reader)
    assert caught.value.reason == "not_an_object"
    path.write_text('{"q": "x", "a": "y"}\n')
    (conversation,) = read_conversations(str(path), mapping="user=q,assistant=a", strict=True)
    assert [m["content"] for m in conversation.messages if "content" in m] == ["x", "y"]


def test_the_hash_is_of_the_row_alone() -> None:
    parsed = parse_block(block_of(GOOD, b"  " + GOOD + b" \r", GOOD.replace(b"q", b"p")))
    hashes = [row.row_hash for row in parsed.rows]
    assert hashes[0] == hashes[1] != hashes[2]
    assert len(hashes[0]) == 16
    assert [row.offset for row in parsed.rows] == [0, len(GOOD) + 1, 2 * len(GOOD) + 6]


def mutated(rows: list[bytes], count: int, seed: int) -> list[bytes]:
    chance = random.Random(seed)
    pieces = [
        b'"',
        b"\\",
        b"{",
        b"}",
        b"[",
        b"]",
        b",",
        b":",
        b"null",
        b"1e400",
        b"\xff",
        b"\\ud800",
        b"-",
        b"\r",
        b'"role"',
        b"1" * 25,
    ]
    result: list[bytes] = []
    for _ in range(count):
        row = bytearray(chance.choice(rows))
        for _ in range(chance.randint(1, 3)):
            at, end = sorted(chance.choices(range(len(row) + 1), k=2))
            match chance.randrange(4):
                case 0:
                    row[at : at + chance.randint(1, 3)] = b""
                case 1:
                    row[at:at] = chance.choice(pieces)
                case 2:
                    row[at : at + 1] = bytes([chance.randrange(256)])
                case _:
                    row[at:at] = row[at : min(end, at + 20)]
        result.append(bytes(row).replace(b"\n", b""))
    return result


def test_mutated_rows_are_accepted_or_rejected_and_never_lost(tmp_path: Path) -> None:
    prose = chat({**Q, "content": "é word " * 60}, {**A, "content": "中 text " * 60})
    seeds = [*[prose] * 60, *(row for row, _, _ in CASES if len(row) < 1000), chat(Q, A, tools=[{"name": "f"}], id="x")]
    rows = mutated(seeds, 6000, seed=1)
    parsed = parse_block(block_of(*rows))
    blank = sum(not row.strip(b" \t\r") for row in rows)
    assert len(parsed.rows) + len(parsed.rejects) == parsed.num_read == len(rows) - blank
    assert parsed.num_blank == blank
    assert sum(parsed.counts_by_format.values()) == len(parsed.rows)
    assert len(parsed.rows) > 50
    for reject in parsed.rejects:
        orjson.loads(reject.to_json())
        format_reject(reject)
    array = tmp_path / "a.json"
    array.write_bytes(b"[" + b",\n".join(rows[:300]))
    for block in iter_blocks(expand_inputs([str(array)]), 4000):
        found = parse_block(block)
        assert found.num_read == len(found.rows) + len(found.rejects) > 0

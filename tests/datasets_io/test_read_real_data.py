"""Real data sets: nothing is rejected, and what comes out says what went in."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from datasets_io import ReadOptions, expand_inputs, format_reject, iter_blocks, parse_block, parse_mapping


@pytest.mark.parametrize(
    ("name", "form", "num_rows", "num_conversations"),
    [
        ("gsm8k/test.jsonl", "mapped", 1319, 1319),
        ("gsm8k/train.jsonl", "mapped", 7473, 7473),
        ("llamafactory/alpaca_en_demo.json", "alpaca", 999, 999),
        ("llamafactory/dpo_en_demo.json", "preference", 300, 600),
        ("llamafactory/glaive_toolcall_en_demo.json", "sharegpt", 300, 300),
        ("llamafactory/identity.json", "alpaca", 91, 91),
        ("llamafactory/reason_tool_use_demo_50.jsonl", "openai", 50, 50),
        ("llamafactory/v1_sft_demo.jsonl", "openai", 500, 500),
    ],
)
def test_every_row_is_accepted(real_data: Path, name: str, form: str, num_rows: int, num_conversations: int) -> None:
    path = real_data / "data" / name
    options = ReadOptions(parse_mapping("user=question,assistant=answer") if form == "mapped" else None)
    parsed = [parse_block(block, options) for block in iter_blocks(expand_inputs([str(path)]), 100_000)]
    assert [format_reject(reject) for p in parsed for reject in p.rejects] == []
    assert sum((p.counts_by_format for p in parsed), Counter()) == {form: num_rows}
    conversations = [c for p in parsed for row in p.rows for c in row.conversations]
    assert len(conversations) == num_conversations
    text = path.read_text(encoding="utf-8")
    rows = json.loads(text) if path.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    given = sorted(leaf for row in rows for leaf in spoken(row))
    assert sorted(leaf for c in conversations for m in c.messages for leaf in spoken_by(m)) == given


def spoken(row: dict[str, Any]) -> list[str]:
    """What is said in a row, read off its own form without a line of the code under test."""
    if "question" in row:
        return [row["question"], row["answer"]]
    if "instruction" in row:
        return ["\n".join(filter(None, [row["instruction"], row["input"]])), row["output"]]
    if "chosen" in row:
        context = [turn["value"] for turn in row["conversations"]]
        return [*context, row["chosen"]["value"], *context, row["rejected"]["value"]]
    if "conversations" in row:
        return [canonical(t["value"]) if t["from"] == "function_call" else t["value"] for t in row["conversations"]]
    parts = [part for message in row["messages"] for part in message["content"]]
    return [canonical(p["value"]) if p["type"] == "tool_call" else p["value"] for p in parts]


def spoken_by(message: Any) -> list[str]:
    calls = [canonical(json.dumps(call["function"])) for call in message.get("tool_calls", [])]
    texts = [message[key] for key in ("reasoning_content", "content") if key in message]
    return [*texts, *calls]


def canonical(text: str) -> str:
    return json.dumps(json.loads(text), sort_keys=True)

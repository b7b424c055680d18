"""Inputs and comparisons for the tests of building."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from datasets_io import RenderSpec

ROOT = Path(__file__).resolve().parents[2]
MODEL = str(ROOT / "fixtures" / "tiny-chat")
CONVERSATIONS = ROOT / "fixtures" / "conversations"


def spec_of(**changes: Any) -> RenderSpec:
    return RenderSpec(**{"model": MODEL, "block_bytes": 8_000, **changes})


def chat(*contents: str, system: str | None = None) -> dict[str, Any]:
    """A row of user and assistant messages in turn."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": content} for i, content in enumerate(contents)]
    return {"messages": ([{"role": "system", "content": system}] if system else []) + messages}


def write_rows(path: Path, rows: Iterable[Any]) -> str:
    """JSON lines; text and bytes are written as they are."""
    lines = [
        row if isinstance(row, bytes) else row.encode() if isinstance(row, str) else json.dumps(row).encode()
        for row in rows
    ]
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    return str(path)


def mixed_input(folder: Path) -> list[str]:
    """Good rows, bad rows and repeated rows in two files."""
    train = (CONVERSATIONS / "train_chat.jsonl").read_bytes().splitlines()[:200]
    bad = (CONVERSATIONS / "bad.jsonl").read_bytes().splitlines()
    pairs = (CONVERSATIONS / "preference.jsonl").read_bytes().splitlines()
    first = write_rows(folder / "first.jsonl", [*train[:120], *bad[:30], *train[100:], *bad[30:]])
    return [first, write_rows(folder / "second.jsonl", [*pairs, *train[:40]])]


def files_of(folder: Path) -> dict[str, bytes]:
    """Every file under a folder by its relative path."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }  # fmt: skip


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().splitlines()] if path.exists() else []


def words(count: int, start: int = 0) -> str:
    return " ".join(f"word{i}" for i in range(start, start + count))

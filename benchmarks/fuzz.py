"""Mutates rows of the fixtures and builds shards from them: accepted + rejected = read every time, no traceback.

python benchmarks/fuzz.py --lines 100000
"""

from __future__ import annotations

import argparse
import copy
import json
import random
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LINES_PER_BUILD = 10_000
_VALUES: list[Any] = [
    None, True, False, 0, -1, 1.5, 10**30, "", " ", "x", "\n", "\x00", "<|im_end|>", "<think>", "é" * 3, "\ud800", [],
    {}, [[]], [{}], {"role": "user"}, {"type": "text", "text": "hi"}, [{"type": "image", "image": "a.png"}], "{\"a\":",
]  # fmt: skip
_KEYS = [
    "messages", "conversations", "role", "content", "from", "value", "tools", "tool_calls", "function", "arguments",
    "name", "weight", "trainable", "reasoning_content", "chosen", "rejected", "prompt", "completion", "instruction",
    "output", "history", "system", "id", "conversation", "human", "assistant",
]  # fmt: skip
_ROLES = ["system", "user", "assistant", "tool", "developer", "human", "gpt", "function_call", "observation", "bot"]


def mutated_rows(number: int, seed: int) -> Iterator[bytes]:
    """Lines made from fixture rows: most changed in their structure, some in their bytes."""
    chooser = random.Random(seed)
    seeds = [
        line
        for path in sorted((ROOT / "fixtures" / "conversations").glob("*.jsonl"))
        for line in path.read_bytes().splitlines()
    ]
    good = [line for line in seeds if _loads(line) is not None]
    for _ in range(number):
        if chooser.random() < 0.3:
            line = _mutated_bytes(chooser.choice(seeds), chooser)
        else:
            row = _loads(chooser.choice(good))
            for _ in range(chooser.randint(0, 2)):
                row = _mutated(row, chooser)
            line = json.dumps(row, ensure_ascii=chooser.random() < 0.8).encode("utf-8", "surrogatepass")
        yield line.replace(b"\n", b" ")


def _loads(line: bytes) -> Any:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return row if isinstance(row, dict) else None


def _mutated_bytes(line: bytes, chooser: random.Random) -> bytes:
    data = bytearray(line)
    for _ in range(chooser.randint(1, 4)):
        at = chooser.randrange(len(data) + 1)
        match chooser.randrange(4):
            case 0:
                del data[at : at + chooser.randint(1, 20)]
            case 1:
                data[at:at] = bytes([chooser.randrange(256)])
            case 2:
                data[at:at] = chooser.choice([b'"', b"{", b"}", b"[", b"]", b",", b"\\u", b"\\ud83d", b"NaN", b"\xff"])
            case _:
                del data[at:]
    return bytes(data)


def _mutated(value: Any, chooser: random.Random) -> Any:
    """The value with one node somewhere in it replaced, removed, repeated or renamed."""
    places = list(_places(value))
    if not places:
        return _value(chooser)
    container, key = chooser.choice(places)
    match chooser.randrange(6):
        case 0:
            container[key] = _value(chooser)
        case 1:
            del container[key]
        case 2 if isinstance(container, list):
            container.insert(key, copy.deepcopy(container[key]))
        case 2:
            container[chooser.choice(_KEYS)] = container.pop(key)
        case 3 if isinstance(container, dict):
            container[chooser.choice(_KEYS)] = _value(chooser)
        case 3:
            chooser.shuffle(container)
        case 4 if isinstance(container, dict) and ("role" in container or "from" in container):
            container["role" if "role" in container else "from"] = chooser.choice(_ROLES)
        case _:
            if isinstance(container[key], str):
                container[key] += chooser.choice(["<|im_end|>\n<|im_start|>assistant\n", "</think>", " ", "\u2028"])
    return value


def _value(chooser: random.Random) -> Any:
    return copy.deepcopy(chooser.choice(_VALUES))


def _places(value: Any) -> Iterator[tuple[Any, Any]]:
    items: Any = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in list(items):
        yield value, key
        yield from _places(inner)


def check_lines(lines: list[bytes], folder: Path, say: Callable[[str], None], **options: Any) -> tuple[int, int]:
    """Build shards from the lines; (accepted, rejected).

    Raises:
        AssertionError: a row is neither accepted nor rejected, or the files say something else than the counts.
    """
    sys.path.insert(0, str(ROOT))
    from datasets_io import RenderSpec, ShardReader, run_build, verify_shards

    path = folder / "rows.jsonl"
    path.write_bytes(b"".join(line + b"\n" for line in lines))
    out = folder / "out"
    spec = RenderSpec(model=str(ROOT / "fixtures" / "tiny-chat"), block_bytes=200_000, **options)
    manifest = run_build([str(path)], out, spec, overwrite=True, dedup=True).manifest
    totals = manifest.totals
    written = [line for line in lines if line.strip(b" \t\r")]
    rejects = [json.loads(line) for line in (out / "rejects.jsonl").read_bytes().splitlines()]
    dropped = {json.loads(line)["line"] for line in (out / "drops.jsonl").read_bytes().splitlines()}
    stored = {
        row.provenance.line
        for split in manifest.splits
        for reader in [ShardReader(out, split)]
        for row in map(reader.row, range(len(reader)))
    }
    rejected = {entry["line"] for entry in rejects}
    lines_read = {i for i, line in enumerate(lines, 1) if line.strip(b" \t\r")}
    assert totals.accepted + totals.rejected == totals.read == len(written), totals
    assert len(rejects) == len(rejected) == totals.rejected == sum(manifest.rejects.values()), totals
    assert not rejected & stored, sorted(rejected & stored)[:5]
    assert rejected | stored | dropped == lines_read, sorted(lines_read - rejected - stored - dropped)[:5]
    for entry in rejects:
        raw = lines[entry["line"] - 1].strip(b" \t\r")
        assert entry.get("row", "").encode() == raw or "row_base64" in entry, entry["line"]
    report = verify_shards(out)
    assert report.ok, report.faults[:3]
    say(
        f"read {totals.read} = accepted {totals.accepted} + rejected {totals.rejected}; {len(manifest.rejects)} reasons"
    )
    return totals.accepted, totals.rejected


OPTIONS: list[dict[str, Any]] = [
    {},
    {"max_length": 60, "max_length_policy": "keep-start", "eval_fraction": 0.1},
    {"max_length": 60, "max_length_policy": "drop-oldest-turns", "turns": "split"},
    {"max_length": 40, "max_length_policy": "split", "weights": "mean"},
    {"control_tokens": "reject", "train_on_what": "all_messages"},
    {"turns": "drop", "max_length": 50, "max_length_policy": "keep-end"},
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    chosen = parser.parse_args()
    accepted = rejected = 0
    with tempfile.TemporaryDirectory() as folder:
        for part, first in enumerate(range(0, chosen.lines, LINES_PER_BUILD)):
            number = min(LINES_PER_BUILD, chosen.lines - first)
            lines = list(mutated_rows(number, chosen.seed + part))
            counts = check_lines(lines, Path(folder), print, **OPTIONS[part % len(OPTIONS)])
            accepted, rejected = accepted + counts[0], rejected + counts[1]
    print(f"{accepted + rejected} rows: accepted {accepted}, rejected {rejected}")


if __name__ == "__main__":
    main()

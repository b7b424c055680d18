"""Real chat data through `build_shards` with real tokenizers: what is accepted, what is rejected and why.

    DATUMLOOM_REAL_DATA=folder python benchmarks/real_data.py --write

Every reject is listed by reason. A row is rejected when it is faulty, or when the model's own template refuses it.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from collections import Counter
from pathlib import Path

import orjson
from section import join, replace_section, table

import datasets_io

MODELS = ("qwen3", "llama3.1")
INPUTS = (
    ("gsm8k/train.jsonl", "user=question,assistant=answer"),
    ("gsm8k/test.jsonl", "user=question,assistant=answer"),
    ("llamafactory/glaive_toolcall_en_demo.json", None),
    ("llamafactory/reason_tool_use_demo_50.jsonl", None),
    ("llamafactory/alpaca_en_demo.json", None),
    ("llamafactory/dpo_en_demo.json", None),
    ("llamafactory/v1_sft_demo.jsonl", None),
)


def render(model: Path, path: Path, mapping: str | None, out: Path) -> tuple[tuple[str, ...], Counter[str]]:
    """One line of the table, and the rejects with their reasons."""
    spec = datasets_io.RenderSpec(model=str(model), mapping=mapping)
    manifest = datasets_io.build_shards([path], out, spec, max_rejects="100%")
    totals = manifest.totals
    rejects: Counter[str] = Counter()
    if (out / "rejects.jsonl").exists():
        for line in (out / "rejects.jsonl").read_bytes().splitlines():
            reject = orjson.loads(line)
            rejects[f"{reject['reason']}: {reject['detail']}"] += 1
    faults = datasets_io.verify_shards(out).faults
    assert totals.accepted + totals.rejected == totals.read
    assert not faults, faults[:3]
    numbers = (totals.read, totals.accepted, totals.rejected, totals.rows, totals.tokens, totals.trained_tokens)
    return (path.name, model.name, *(f"{number:,}" for number in numbers)), rejects


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    root = Path(os.environ["DATUMLOOM_REAL_DATA"])
    lines: list[tuple[str, ...]] = []
    listed: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        for i, (name, mapping) in enumerate(INPUTS):
            for model in MODELS:
                out = Path(folder) / f"{model}-{i}"
                line, rejects = render(root / "tokenizers" / model, root / "data" / name, mapping, out)
                lines.append(line)
                listed += [f"- {Path(name).name}, {model}: {count} x {words}" for words, count in rejects.most_common()]
                print(*line)
    header = ("input", "tokenizer", "read", "accepted", "rejected", "examples", "tokens", "trained")
    text = join(
        "## Real data (`benchmarks/real_data.py`)",
        "Default options (all assistant messages, `--turns auto`). accepted + rejected = read in every run, and every "
        "folder passes `verify`.",
        table(header, lines),
        "Rejects:",
        "\n".join(listed) or "none",
    )
    print(text)
    if arguments.write:
        replace_section("real data", text)


if __name__ == "__main__":
    main()

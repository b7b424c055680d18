"""Latency of one generation prompt: ten turns of chat, one call at a time, we and the peers in the same run.

    python benchmarks/latency.py [--rounds N] [--prompts N] [--only NAME ...] [--write]

CPU time of a call, median over prompts and repeats after a warm pass: on a free core it is the latency, and on a busy
one it stays so (wall time is printed beside it). Each library runs in its own pinned process, once per round. The exit
status is 1 when a bar is missed or a library failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from pathlib import Path

from bars import judge_failures, judge_latency
from inputs import main_input, model_folder
from machine import describe
from peers.cases import LATENCY
from rounds import Inputs, run_rounds
from section import failures, join, replace_section, table, verdicts, versions

TURNS = 10


def write_prompts(source: Path, path: Path, num_prompts: int) -> None:
    """Prompts of `TURNS` user turns with the answers between them, ending with a user's message."""
    found = 0
    with source.open("rb") as lines, path.open("w", encoding="utf-8") as file:
        for line in lines:
            messages = json.loads(line)["messages"]
            wanted = 2 * TURNS - 1 + (messages[0]["role"] == "system")
            if len(messages) > wanted and found < num_prompts:
                file.write(json.dumps({"messages": messages[:wanted]}, ensure_ascii=False) + "\n")
                found += 1
    if found < num_prompts:
        raise SystemExit(f"expected {num_prompts} conversations of {TURNS} turns; found {found}")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--only", nargs="+", default=[], choices=[case.name for case in LATENCY], metavar="NAME")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/RESULTS.md")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="latency-benchmark-") as name:
        scratch = Path(name)
        prompts = scratch / "prompts.jsonl"
        write_prompts(main_input(scratch, 60 * arguments.prompts), prompts, arguments.prompts)
        cases = [case for case in LATENCY if not arguments.only or case.name in arguments.only]
        rounds = run_rounds(cases, Inputs(model_folder(scratch), prompts, prompts), arguments.rounds, ["--latency"])
    lines: list[tuple[str, ...]] = []
    for case in cases:
        if case.name in rounds.results:
            mid = rounds.medians(case.name)
            average = mid["tokens"] / mid["prompts"]
            figures = [f"{mid[key]:.3f}" for key in ("median_ms", "p95_ms", "wall_median_ms")]
            lines.append((f"{case.name} ({case.note})", f"{average:,.0f}", *figures))
    found = [*judge_latency(rounds), *judge_failures(rounds)]
    text = join(
        "## Latency of one generation prompt",
        f"{describe()}. {arguments.prompts} prompts of {TURNS} user turns, {arguments.rounds} rounds.",
        table(("library", "tokens a prompt", "CPU ms, median", "95th percentile", "wall ms, median"), lines),
        verdicts(found),
        failures(rounds),
        f"Versions: {versions(rounds.results)}.",
    )
    print(text)
    if arguments.write:
        replace_section("latency", text)
    sys.exit(1 if any(verdict.passed is False for verdict in found) else 0)


if __name__ == "__main__":
    main()

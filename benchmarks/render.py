"""Conversations to training examples: we, the peers and the floor, in one run on one core each.

    python benchmarks/peers/environments.py          # once: the peers' environments
    python benchmarks/render.py [--quick] [--rounds N] [--only NAME ...] [--families] [--memory] [--write]

Set DATUMLOOM_REAL_DATA for real tokenizers; without it the fixture's small one is used. CPU seconds are user and
system time of the work alone; imports and tokenizer loading are a column of their own. `--write` puts the result into
`benchmarks/RESULTS.md`. The exit status is 1 when a bar is missed or a case failed.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from agreement import differing, sentence
from bars import Verdict, judge, judge_agreement, judge_failures, judge_families, judge_memory
from inputs import LARGE_PARTS, large_input, main_input, model_folder, sized_input, tokenizers_home
from machine import describe, parallel_headroom
from peers.cases import CASES, Case
from rounds import Inputs, Result, Rounds, run_case, run_rounds
from section import cases_table, failures, join, replace_section, table, verdicts, versions

ROWS, QUICK_ROWS = 4500, 500
SIZES = {"10 MB": 10_000_000, "100 MB": 100_000_000, "1 GB": 1_000_000_000}
_METHOD = (
    "CPU seconds are user and system time of the work alone, children included; medians over the rounds. In a round "
    "every case runs once, in its own process, pinned to one core (two for two workers) with every thread pool set to "
    "one thread; ratios are taken within a round, then their median. Peers stop at arrays in memory (TRL at its Arrow "
    "dataset); ours and the floor write the file too. Imports, loading the tokenizer and our comparison of the fast "
    "encoder with the reference are the column `load`."
)


def compare(folder: Path, scratch: Path, arguments: argparse.Namespace) -> tuple[str, list[Verdict], Rounds]:
    """The main table."""
    num_rows = QUICK_ROWS if arguments.quick else ROWS
    cases = _chosen(arguments.only)
    main = main_input(scratch, num_rows)
    large = large_input(scratch, num_rows) if any(case.input == "large" for case in cases) else main
    headroom = parallel_headroom()
    rounds = run_rounds(cases, Inputs(folder, main, large), arguments.rounds)
    differences = differing([case for case in cases if case.name in rounds.results], folder, scratch)
    found = [*judge(rounds), *judge_agreement(differences), *judge_failures(rounds)]
    facts = (
        f"{num_rows:,} conversations, {main.stat().st_size / 1e6:.1f} MB (large input: {LARGE_PARTS} times that), "
        f"tokenizer {folder.name}; {arguments.rounds} rounds. Two jobs at once on two cores ran {headroom:.2f} times "
        f"as fast as one after the other."
    )
    tables = join(facts, _METHOD, cases_table(rounds, cases), verdicts(found))
    remarks = join(sentence(differences), failures(rounds), f"Versions: {versions(rounds.results)}.")
    return join(tables, remarks), found, rounds


def families(scratch: Path, arguments: argparse.Namespace) -> tuple[str, list[Verdict]]:
    """Our speed with each real tokenizer and its template, next to what encoding alone costs with it."""
    home = tokenizers_home()
    if home is None:
        raise SystemExit("--families: expected DATUMLOOM_REAL_DATA to name the folder of real data; it is unset")
    main = main_input(scratch, QUICK_ROWS if arguments.quick else ROWS)
    ours, floor = Case("ours", "", "ours.py", "single"), Case("encode", "", "floor.py", "encode")
    speeds: dict[str, float] = {}
    failed: list[Verdict] = []
    lines: list[tuple[str, ...]] = []
    for name in sorted(path.name for path in home.iterdir() if (path / "tokenizer.json").exists()):
        folder = model_folder(scratch / "families", name)
        rounds = run_rounds([ours, floor], Inputs(folder, main, main), arguments.rounds)
        if "ours" not in rounds.results:
            lines.append((name, f"failed: {rounds.failures['ours']}", "-", "-"))
            failed.append(Verdict(f"{name}: runs", "yes", None, False))
            continue
        mid = rounds.medians("ours")
        speeds[name] = mid["tokens"] / mid["cpu_s"]
        encode = rounds.ratio(["ours"], "encode")
        over = "-" if encode is None else f"{encode:.2f}"
        lines.append((name, f"{mid['cpu_s']:.3f}", f"{speeds[name] / 1e6:.2f}", over))
    header = ("tokenizer and template", "CPU s", "M tokens/CPU s", "CPU over parse and encode alone")
    found = [*failed, *judge_families(speeds, "qwen3")]
    return join(table(header, lines), verdicts(found)), found


def memory(folder: Path, scratch: Path, arguments: argparse.Namespace) -> tuple[str, list[Verdict]]:
    """Our peak memory on growing inputs; the files are made of ever new seeds."""
    case, peaks = Case("ours", "", "ours.py", "auto"), dict[str, Result]()
    for label, num_bytes in list(SIZES.items())[: 2 if arguments.quick else None]:
        path = sized_input(scratch / "sized.jsonl", ROWS if num_bytes > 10_000_000 else QUICK_ROWS, num_bytes=num_bytes)
        peaks[label] = run_case(case, Inputs(folder, path, path))
        path.unlink()
    lines = [
        (label, f"{r['conversations']:,}", f"{r['tokens']:,}", f"{r['cpu_s']:.1f}", f"{r['peak_rss_mb']:.0f}")
        for label, r in peaks.items()
    ]
    found = judge_memory(peaks)
    return join(table(("input", "rows", "tokens", "CPU s", "peak MB"), lines), verdicts(found)), found


def _chosen(only: Sequence[str]) -> list[Case]:
    """Cases whose name is, or begins with, one of `only`; all when it is empty."""
    chosen = [case for case in CASES if not only or any(case.name == n or case.name.startswith(n) for n in only)]
    if not chosen:
        raise SystemExit(f"--only: expected some of {', '.join(case.name for case in CASES)}; got {', '.join(only)}")
    return chosen


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_ROWS} conversations instead of {ROWS}")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="cases by name or beginning of a name")
    parser.add_argument("--families", action="store_true", help="our speed with every real tokenizer instead")
    parser.add_argument("--memory", action="store_true", help="our peak memory on 10 MB, 100 MB and 1 GB instead")
    parser.add_argument("--write", action="store_true", help="put the result into benchmarks/RESULTS.md")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write every single result of the main run")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="render-benchmark-") as name:
        scratch = Path(name)
        if arguments.families:
            section, title = "render-families", "Rendering: every family"
            text, found = families(scratch, arguments)
        elif arguments.memory:
            section, title = "render-memory", "Rendering: memory"
            text, found = memory(model_folder(scratch), scratch, arguments)
        else:
            section, title = "render", "Rendering: conversations to training examples"
            text, found, rounds = compare(model_folder(scratch), scratch, arguments)
            if arguments.json:
                arguments.json.write_text(json.dumps(rounds.results, indent=1))
    text = join(f"## {title}", f"{describe()}.", text)
    print(text)
    if arguments.write:
        replace_section(section, text)
    sys.exit(1 if any(verdict.passed is False for verdict in found) else 0)


if __name__ == "__main__":
    main()

"""Our tokens against `apply_chat_template` of transformers, for every template at hand; writes docs/parity.md.

    DATUMLOOM_REAL_DATA=FOLDER python benchmarks/parity.py [--rows 20] [--seed 0] [--only NAME] [--out docs/parity.md]

FOLDER/tokenizers holds one folder per model; the fixture tokenizers are always compared. Ends with status 1 when
anything differs.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
os.environ.update(TOKENIZERS_PARALLELISM="false", HF_HUB_OFFLINE="1", TRANSFORMERS_OFFLINE="1")

from renderers import Renderer  # noqa: E402
from tests.renderers.parity import (  # noqa: E402
    KNOWN_LOADING_DIFFERENCES,
    Oracle,
    Score,
    chat_template_renderer,
    compare,
    family_renderers,
    template_files,
)
from tests.renderers.parity_cases import CASES  # noqa: E402

COMPARED = ("prompts", "conversations", "turns")
LIBRARIES = ("transformers", "tokenizers", "jinja2", "fastokens")


class Row(NamedTuple):
    """One renderer with its options on one template: its scores by case."""

    folder: str
    template: Path
    renderer: str
    options: str
    scores: dict[str, Score]

    @property
    def total(self) -> Score:
        total = Score()
        for score in self.scores.values():
            total.add(score)
        return total

    @property
    def label(self) -> str:
        return f"`{self.renderer}` {self.options}".strip()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=20, help="conversations per case")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", help="one tokenizer folder by name")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "parity.md")
    arguments = parser.parse_args()
    rows: list[Row] = []
    for folder in _folders():
        if arguments.only in (None, folder.name):
            rows += _compare_folder(folder, arguments.rows, arguments.seed)
    arguments.out.write_text(_report(rows, arguments.rows, arguments.seed), encoding="utf-8")
    bad = [mismatch for row in rows for mismatch in row.total.mismatches]
    print(f"{len(bad)} mismatches in {len(rows)} renderers; written to {arguments.out}")
    for mismatch in bad[:5]:
        print(mismatch)
    return 1 if bad else 0


def _folders() -> list[Path]:
    named = os.environ.get("DATUMLOOM_REAL_DATA")
    real = sorted(path for path in (Path(named) / "tokenizers").iterdir() if path.is_dir()) if named else []
    if not named:
        print("DATUMLOOM_REAL_DATA is unset: only the fixture tokenizers are compared")
    return [*real, *(ROOT / "fixtures" / name for name in ("tiny-chat", "tiny-headers", "tiny-spm"))]


def _compare_folder(folder: Path, rows: int, seed: int) -> Iterator[Row]:
    for template in template_files(folder):
        pairs: list[tuple[Renderer, Oracle]] = [chat_template_renderer(folder, template)]
        pairs += family_renderers(folder, template)
        for renderer, oracle in pairs:
            scores = {case: compare(renderer, oracle, case, rows, seed) for case in CASES}
            row = Row(folder.name, template, renderer.name, _shown_options(renderer), scores)
            print(f"{folder.name}/{template.name} {row.label}: {len(row.total.mismatches)} mismatches", flush=True)
            yield row


def _shown_options(renderer: Renderer) -> str:
    shown = {k: v for k, v in renderer.options.items() if not (isinstance(v, str) and len(v) > 20)}
    return ", ".join(f"{name}={value}" for name, value in shown.items())


def _report(rows: list[Row], count: int, seed: int) -> str:
    versions = ", ".join(f"{name} {version(name)}" for name in LIBRARIES)
    lines = [
        "# Parity with `apply_chat_template`",
        "",
        "Written by `make parity`. The same messages through our renderers and through transformers, ids compared:",
        "the prompt at every assistant turn, the whole conversation, and every turn alone (what comes before its",
        "trained tokens is its prompt, and they are its own text through the stop token). `chat_template` is the path",
        "that runs the template itself; the other names are families. `refused`: the template raises, and so do we.",
        "`conflicts`: the template writes a turn unlike the prompt it gives for it; such a turn is refused.",
        "",
        f"Python {platform.python_version()}, {versions}; {count} conversations per case, seed {seed}.",
        "",
        "| tokenizer | template | renderer | compared | refused | conflicts | mismatches |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        counts = row.total.counts
        compared = sum(counts[kind] for kind in COMPARED)
        lines.append(
            f"| {row.folder} | {_digest(row.template)} | {row.label} | {compared} | {counts['refused']} | "
            f"{counts['conflicts']} | {len(row.total.mismatches)} |"
        )
    lines += [*_hashes(rows), *_by_case(rows), *_conflicts(rows), *_known()]
    return "\n".join(lines) + "\n"


def _digest(template: Path) -> str:
    return hashlib.sha256(template.read_bytes()).hexdigest()[:12]


def _hashes(rows: list[Row]) -> list[str]:
    lines = ["", "## Templates", "", "| file | sha256 |", "|---|---|"]
    for template in dict.fromkeys(row.template for row in rows):
        name = f"{template.parent.name}/{template.name}"
        lines.append(f"| {name} | `{hashlib.sha256(template.read_bytes()).hexdigest()}` |")
    return lines


def _by_case(rows: list[Row]) -> list[str]:
    """One table: a line per renderer, a column per case, mismatches of compared."""
    lines = ["", "## By case", "", "Mismatches / compared; options of a family together.", ""]
    grouped: dict[tuple[str, str], list[Row]] = {}
    for row in rows:
        grouped.setdefault((f"{row.folder} {_digest(row.template)}", row.renderer), []).append(row)
    lines.append(f"| tokenizer, template | renderer | {' | '.join(case.replace('_', ' ') for case in CASES)} |")
    lines.append("|---" * (len(CASES) + 2) + "|")
    for (name, renderer), group in grouped.items():
        cells: list[str] = []
        for case in CASES:
            compared = sum(row.scores[case].counts[kind] for row in group for kind in COMPARED)
            cells.append(f"{sum(len(row.scores[case].mismatches) for row in group)}/{compared}")
        lines.append(f"| {name} | `{renderer}` | {' | '.join(cells)} |")
    return lines


def _conflicts(rows: list[Row]) -> list[str]:
    lines = ["", "## Where a template disagrees with its own prompt", ""]
    lines += ["| tokenizer | renderer | turns refused, by case | in our words |", "|---|---|---|---|"]
    for row in rows:
        counts = {case: score.counts["conflicts"] for case, score in row.scores.items()}
        shown = ", ".join(f"{case.replace('_', ' ')} {number}" for case, number in counts.items() if number)
        if shown:
            words = row.total.conflict.replace("|", "\\|").replace("\n", " ")
            lines.append(f"| {row.folder} {_digest(row.template)} | {row.label} | {shown} | {words} |")
    return lines


def _known() -> list[str]:
    lines = ["", "## Known differences in loading", ""]
    return [*lines, *(f"- {name}: {words}." for name, words in KNOWN_LOADING_DIFFERENCES.items())]


if __name__ == "__main__":
    sys.exit(main())

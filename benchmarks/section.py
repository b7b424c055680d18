"""Markdown tables, and one marked section of `benchmarks/RESULTS.md` replaced by a run."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from bars import Verdict
from peers.cases import Case
from rounds import Result, Rounds

RESULTS = Path(__file__).resolve().parent / "RESULTS.md"


def table(header: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    """A Markdown table; the first column is left-aligned, the others right."""
    marks = ["---", *["---:"] * (len(header) - 1)]
    return "\n".join("| " + " | ".join(line) + " |" for line in [header, marks, *lines])


def verdicts(found: Sequence[Verdict]) -> str:
    """The bars with what was reached."""
    lines = [(v.bar, v.required, "-" if v.value is None else f"{v.value:.2f}", v.word) for v in found]
    return table(("bar", "required", "reached", "result"), lines)


def cases_table(rounds: Rounds, cases: Sequence[Case], reference: str = "ours single") -> str:
    """Median cost of every case, and its CPU time as a multiple of `reference` on the same input."""
    lines: list[tuple[str, ...]] = []
    inputs = {case.name: case.input for case in cases}
    for case in cases:
        if case.name in rounds.failures:
            lines.append((f"{case.name} ({case.note})", "failed", *["-"] * 9))
        if case.name not in rounds.results:
            continue
        mid = rounds.medians(case.name)
        same = inputs.get(reference) == case.input
        ratio = rounds.ratio([case.name], reference) if same else None
        lines.append((f"{case.name} ({case.note})", *_cost(mid), "-" if ratio is None else f"{ratio:.2f}"))
    header = ("case", "rows", "examples", "tokens", "trained", "CPU s", "wall s", "M tokens/CPU s", "load CPU s")
    return table((*header, "peak MB", f"CPU over {reference}"), lines)


def versions(results: Mapping[str, Sequence[Result]]) -> str:
    """Every distribution that took part, once, with all the versions seen."""
    seen: dict[str, set[str]] = {}
    for every in results.values():
        for name, version in every[0]["versions"].items():
            seen.setdefault(name, set()).add(version)
    return ", ".join(f"{name} {' / '.join(sorted(found))}" for name, found in sorted(seen.items()))


def failures(rounds: Rounds) -> str:
    """What did not run, and the last thing it said."""
    return "\n".join(f"- {name} did not run: `{words}`" for name, words in rounds.failures.items())


def join(*paragraphs: str) -> str:
    return "\n\n".join(paragraph for paragraph in paragraphs if paragraph)


def replace_section(name: str, text: str, path: Path = RESULTS) -> None:
    """Put `text` between the marks of section `name`, at the end of the file when it is new."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = path.read_text(encoding="utf-8") if path.exists() else "# Measured\n"
    body = f"{begin}\n{text.strip()}\n{end}"
    if begin in old and end in old:
        head, rest = old.split(begin, 1)
        new = head + body + rest.split(end, 1)[1]
    else:
        new = f"{old.rstrip()}\n\n{body}\n"
    path.write_text(new, encoding="utf-8")


def _cost(mid: Result) -> tuple[str, ...]:
    return (
        f"{mid['conversations']:,.0f}",
        f"{mid['examples']:,.0f}",
        f"{mid['tokens']:,.0f}",
        f"{mid['trained']:,.0f}",
        f"{mid['cpu_s']:.3f}",
        f"{mid['wall_s']:.3f}",
        f"{mid['tokens'] / mid['cpu_s'] / 1e6:.2f}",
        f"{mid['load_cpu_s']:.1f}",
        f"{mid['peak_rss_mb']:.0f}",
    )

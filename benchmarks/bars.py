"""The bars: what the pipeline must reach, each computed from the rounds of one run."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from peers.cases import FIRST_FOUR
from rounds import Result, Rounds

PEAK_RSS_MB = 500.0
FLAT = 1.25
FAMILY = 0.7
_OURS = ("ours single", "ours auto", "ours split", "ours tokenizers", "ours template", "ours large", "ours large x2")


@dataclass(frozen=True)
class Verdict:
    """One bar's outcome; `value` is None when a case it needs did not run."""

    bar: str
    required: str
    value: float | None
    passed: bool | None

    @property
    def word(self) -> str:
        return "not run" if self.passed is None else "pass" if self.passed else "FAIL"


def judge(rounds: Rounds) -> list[Verdict]:
    """All bars of the main run."""
    return [
        _at_least(
            "single, fastokens: CPU of the fastest of cookbook, transformers, TRL, Prime over ours",
            12.0,
            rounds.ratio(FIRST_FOUR, "ours single"),
        ),
        _at_least("single, `tokenizers` only: the same", 1.1, rounds.ratio(FIRST_FOUR, "ours tokenizers")),
        _at_least("ChatTemplate path: the same", 3.0, rounds.ratio(FIRST_FOUR, "ours template")),
        _at_least("split: CPU of tml-renderers over ours", 5.0, rounds.ratio(["tml"], "ours split")),
        _at_most("single: our CPU over the floor's", 3.0, rounds.ratio(["ours single"], "floor")),
        _at_least(
            "large input: wall of one process over two workers",
            1.7,
            rounds.ratio(["ours large"], "ours large x2", "wall_s"),
        ),
        _at_most("peak resident memory of any of our processes, MB", PEAK_RSS_MB, _peak(rounds)),
    ]


def judge_failures(rounds: Rounds) -> list[Verdict]:
    """A case that did not run at all is a missed bar."""
    return [Verdict(f"{name}: runs", "yes", None, False) for name in rounds.failures]


def judge_agreement(differences: Mapping[str, int]) -> list[Verdict]:
    """Our single-sequence cases against transformers: conversations whose ids or trained tokens differ."""
    return [
        _at_most(f"{name}: conversations whose ids or trained tokens differ from transformers'", 0, number)
        for name, number in differences.items()
        if name.startswith("ours")
    ]


def judge_memory(peaks: dict[str, Result]) -> list[Verdict]:
    """Peak memory from the smallest to the largest input, by label in that order."""
    values = [result["peak_rss_mb"] for result in peaks.values()]
    growth = values[-1] / values[0] if len(values) > 1 else None
    return [
        _at_most(f"peak resident memory in MB, inputs of {', '.join(peaks)}", PEAK_RSS_MB, max(values, default=None)),
        _at_most("peak of the largest input over that of the smallest", FLAT, growth),
    ]


def judge_families(speeds: dict[str, float], base: str) -> list[Verdict]:
    """Tokens per CPU second of every family against `base`."""
    return [
        _at_least(f"{name}: tokens per CPU second over {base}'s", FAMILY, speed / speeds[base])
        for name, speed in speeds.items()
        if base in speeds and name != base
    ]


def judge_latency(rounds: Rounds) -> list[Verdict]:
    """Latency of one generation prompt, median CPU milliseconds."""
    wanted = (("cookbook", "tinker-cookbook", 3.0), ("prime", "Prime's renderers", 3.0), ("tml", "tml-renderers", 1.0))
    return [
        _at_least(f"generation prompt: {words} over ours", bar, rounds.ratio([name], "ours", "median_ms"))
        for name, words, bar in wanted
    ]


def _peak(rounds: Rounds) -> float | None:
    every = [result["peak_rss_mb"] for name in _OURS for result in rounds.results.get(name, [])]
    return max(every, default=None)


def _at_least(bar: str, limit: float, value: float | None) -> Verdict:
    return _verdict(bar, f">= {limit:g}", value, lambda reached: reached >= limit)


def _at_most(bar: str, limit: float, value: float | None) -> Verdict:
    return _verdict(bar, f"<= {limit:g}", value, lambda reached: reached <= limit)


def _verdict(bar: str, required: str, value: float | None, holds: Callable[[float], bool]) -> Verdict:
    return Verdict(bar, required, value, None if value is None else holds(value))

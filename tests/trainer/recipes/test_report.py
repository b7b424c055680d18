"""The page of a run: well formed, without a script, with every curve; charts against plain arithmetic."""

from __future__ import annotations

import doctest
import math
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from typing import Any

import pytest

from tests.trainer.recipes.run_samples import lines_of
from trainer.recipes import TrainResult, curves
from trainer.recipes.curves import chart
from trainer.recipes.report import report_page

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Checker(HTMLParser):
    """Every element is closed by its own end, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: dict[str, int] = {}
        self.texts: list[str] = []

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.seen[tag] = self.seen.get(tag, 0) + 1
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def checked(page: str) -> Checker:
    checker = Checker()
    checker.feed(page)
    checker.close()
    assert checker.open == []
    assert "script" not in checker.seen
    return checker


def test_the_page_of_a_run(finished: TrainResult) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    checker = checked(page)
    text = " ".join(checker.texts)
    for title in ("Loss", "Held-out bits per byte", "Learning rate", "Throughput", "Gradient norm"):
        assert f"<b>{title}</b>" in page
    assert "Preference loss" not in page
    assert "held out:" in text
    assert "What is 2 + 3?" in text
    assert "lora.rank" in text
    assert "http" not in page.replace("http-equiv", "")
    losses = [
        line["train_mean_nll"] for line in lines_of(finished.folder / "metrics.jsonl") if "train_mean_nll" in line
    ]
    assert f"{losses[0]:.4g} → {losses[-1]:.4g}" in text


def test_hostile_values_are_text() -> None:
    metrics = [{"step": 1, "train_mean_nll": None, "num_tokens": 3.0, "progress": 1.0, "time/total": 0.0}]
    sample = {"step": 0, "prompt": "<script>alert(1)</script>", "text": "\x1b[31m</td>", "termination": "eos"}
    config = {"out": "<b>", "model": "&", "shards": "'", "sample": {"prompts": ["<i>"]}, "facts": {"a": None}}
    checker = checked(report_page(config, metrics, [sample] * 50))
    assert "10 earlier ones are in samples.jsonl." in " ".join(checker.texts)
    assert "b" not in checker.seen


def test_a_page_before_anything_was_measured() -> None:
    assert "Nothing was measured yet" in report_page({"out": "o", "model": "m", "shards": "s"}, [], [])


def points_of(line: curves.Line) -> list[tuple[float, float]]:
    return [tuple(map(float, point.split(","))) for point in line.points.split()]  # type: ignore[misc]


def test_a_chart_puts_values_where_its_marks_say() -> None:
    values = [4.2, 3.1, 2.0, 1.5]
    made = chart("t", "n", [("a", "main", list(enumerate(values)))])
    assert made is not None
    marks = [(mark.at, float(mark.text)) for mark in made.up]
    (y0, v0), (y1, v1) = marks[0], marks[-1]
    expected = [y0 + (value - v0) / (v1 - v0) * (y1 - y0) for value in values]
    assert [y for _, y in points_of(made.lines[0])] == pytest.approx(expected, abs=0.06)
    assert v0 <= min(values) < max(values) <= v1
    assert [mark.text for mark in made.across] == ["0", "1", "2", "3"]
    assert (made.lines[0].first, made.lines[0].last, made.lines[0].best) == (4.2, 1.5, 1.5)


@pytest.mark.parametrize("values", [[1.0], [2.0, 2.0], [0.0, 0.0], [-3.0, 1e9], [1e-12, 2e-12]])
def test_a_chart_of_any_numbers_stays_in_its_box(values: list[float]) -> None:
    made = chart("t", "n", [("a", "main", list(enumerate(values)))])
    assert made is not None
    for x, y in points_of(made.lines[0]):
        assert 0 <= x <= made.width
        assert -0.1 <= y <= made.height


def test_values_that_are_not_finite_are_left_out() -> None:
    assert chart("t", "n", [("a", "main", [(1, math.nan), (2, math.inf)])]) is None
    made = chart("t", "n", [("a", "main", [(1, 1.0), (2, math.nan), (3, 2.0)])])
    assert made is not None
    assert len(points_of(made.lines[0])) == 2


def test_long_runs_are_drawn_by_means() -> None:
    made = chart("t", "n", [("a", "main", [(i, float(i % 2)) for i in range(10_000)])])
    assert made is not None
    assert 300 <= len(points_of(made.lines[0])) <= 600
    assert made.lines[0].dots == []


def test_the_inline_drawings_are_well_formed(finished: TrainResult) -> None:
    page = (finished.folder / "report.html").read_text(encoding="utf-8")
    drawings = page.split("<svg ")[1:]
    assert drawings
    for drawing in drawings:
        ElementTree.fromstring("<svg " + drawing.split("</svg>")[0] + "</svg>")


def test_examples_in_docstrings() -> None:
    assert doctest.testmod(curves).failed == 0

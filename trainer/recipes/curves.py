"""Line charts as inline SVG: numbers to points, and axis marks that people can read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Chart", "Line", "Mark", "chart"]

WIDTH, HEIGHT = 640, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 12, 12, 28
_POINTS_SHOWN = 600
_MARKS = 5


@dataclass(frozen=True)
class Line:
    """One curve.

    Attributes:
        name: what it is; also in the legend.
        kind: its CSS class.
        points: of an SVG polyline.
        dots: single points to mark, (x, y), where there are few.
        first, last, best: values, best being the smallest.
    """

    name: str
    kind: str
    points: str
    dots: list[tuple[float, float]]
    first: float
    last: float
    best: float


@dataclass(frozen=True)
class Mark:
    """A tick: where, and its text."""

    at: float
    text: str


@dataclass(frozen=True)
class Chart:
    """A whole chart, in a box of WIDTH by HEIGHT."""

    title: str
    note: str
    lines: list[Line]
    across: list[Mark]
    up: list[Mark]
    width: int = WIDTH
    height: int = HEIGHT
    left: int = _LEFT
    bottom: int = HEIGHT - _BOTTOM
    right: int = WIDTH - _RIGHT


def chart(title: str, note: str, series: Sequence[tuple[str, str, Sequence[tuple[float, float]]]]) -> Chart | None:
    """A chart of (name, CSS class, [(step, value)]); None when no value is finite, as others are left out."""
    cleaned = [(n, k, [p for p in points if math.isfinite(p[1])]) for n, k, points in series]
    shown = [(name, kind, points) for name, kind, points in cleaned if points]
    if not shown:
        return None
    steps = [step for _, _, points in shown for step, _ in points]
    values = [value for _, _, points in shown for _, value in points]
    across, up = _marks(min(steps), max(steps)), _marks(min(values), max(values))
    x_low, x_high = min(steps), max(*steps, min(steps) + 1)
    y_low, y_high = up[0], up[-1]

    def x(step: float) -> float:
        return _LEFT + (step - x_low) / (x_high - x_low) * (WIDTH - _LEFT - _RIGHT)

    def y(value: float) -> float:
        return HEIGHT - _BOTTOM - (value - y_low) / (y_high - y_low) * (HEIGHT - _TOP - _BOTTOM)

    lines = [
        Line(
            name,
            kind,
            " ".join(f"{x(step):.1f},{y(value):.1f}" for step, value in _thinned(points)),
            [(x(step), y(value)) for step, value in points] if len(points) <= 40 else [],
            points[0][1],
            points[-1][1],
            min(value for _, value in points),
        )
        for name, kind, points in shown
    ]
    x_marks = [Mark(x(mark), f"{mark:,.0f}") for mark in across if mark == int(mark) and x_low <= mark <= x_high]
    return Chart(title, note, lines, x_marks, [Mark(y(mark), f"{mark:.4g}") for mark in up])


def _marks(low: float, high: float) -> list[float]:
    """Round numbers from at most `low` to at least `high`.

    >>> _marks(0.3, 4.1)
    [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]
    """
    span = (high - low) or abs(high) or 1.0
    power = 10 ** math.floor(math.log10(span / _MARKS))
    step = next(power * times for times in (1, 2, 2.5, 5, 10) if power * times * _MARKS >= span * 0.9)
    start, end = math.floor(low / step), math.ceil(high / step)
    return [round(step * i, 12) for i in range(start, max(end, start + 1) + 1)]


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `_POINTS_SHOWN` points: the means of equal stretches, so that no peak is picked by chance."""
    if len(points) <= _POINTS_SHOWN:
        return list(points)
    size = math.ceil(len(points) / _POINTS_SHOWN)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(s for s, _ in part) / len(part), sum(v for _, v in part) / len(part)) for part in parts]

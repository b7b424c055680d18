"""Progress: lines or a bar on standard error, nothing on standard output."""

from __future__ import annotations

import io
import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from datasets_io.progress import Progress


class Clock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def test_lines_come_every_five_seconds_with_rate_and_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(10_000, "rows", "render", stream=stream, clock=clock) as progress:
        for _ in range(10):
            clock.now += 1
            progress.advance(400, rejected=1)
    assert stream.getvalue().splitlines() == [
        "render: 2,000/10,000 rows (20%), 400 rows/s, ETA 0:20, rejected 5",
        "render: 4,000/10,000 rows (40%), 400 rows/s, ETA 0:15, rejected 10",
        "render: 4,000 rows in 0:10, 400 rows/s, rejected 10",
    ]


def test_an_unknown_total_has_no_time_left() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(None, "bytes", "read", stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.advance(25_000_000)
    assert stream.getvalue().splitlines() == ["read: 25.0 MB, 2.5 MB/s", "read: 25.0 MB in 0:10, 2.5 MB/s"]


def test_work_of_an_earlier_run_counts_for_the_share_and_not_for_the_rate() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(100, "rows", "render", done=60, stream=stream, clock=clock) as progress:
        clock.now += 10
        progress.advance(20)
    assert stream.getvalue().splitlines()[0] == "render: 80/100 rows (80%), 2 rows/s, ETA 0:10"


def test_nothing_done_and_no_time_passed_divides_by_nothing() -> None:
    stream = io.StringIO()
    with Progress(0, "rows", "render", stream=stream, clock=Clock()) as progress:
        progress.advance(0)
    assert stream.getvalue() == "render: 0 rows in 0:00\n"


def test_an_error_says_how_far_it_came() -> None:
    stream, clock = io.StringIO(), Clock()

    def work() -> None:
        with Progress(9, "rows", "render", stream=stream, clock=clock) as progress:
            clock.now += 2
            progress.advance(4)
            raise ValueError("bad row")

    with pytest.raises(ValueError, match="bad row"):
        work()
    assert stream.getvalue() == "render: stopped after 4 rows in 0:02, 2 rows/s\n"


def test_quiet_shows_nothing() -> None:
    stream, clock = io.StringIO(), Clock()
    with Progress(9, "rows", "render", quiet=True, stream=stream, clock=clock) as progress:
        clock.now += 60
        progress.advance(4)
    assert stream.getvalue() == ""


PROGRAM = """
from datasets_io.progress import Progress
with Progress(50, "rows", "render") as progress:
    for _ in range(50):
        progress.advance(1, rejected=1)
    print("a result")
"""


def on_a_terminal(repository: Path, **variables: str) -> tuple[str, str]:
    """Standard output, and what a terminal on standard error gets."""
    ours, theirs = pty.openpty()
    keep = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "FORCE_COLOR", "COLUMNS")}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        stdout=subprocess.PIPE,
        stderr=theirs,
        text=True,
        cwd=repository,
        env={**keep, "TERM": "xterm-256color", "COLUMNS": "100", **variables},
        check=True,
    )
    os.close(theirs)
    pieces: list[bytes] = []
    try:
        while piece := os.read(ours, 65536):
            pieces.append(piece)
    except OSError:
        pass  # the end of a pseudo-terminal
    finally:
        os.close(ours)
    return done.stdout, b"".join(pieces).decode()


def test_a_terminal_gets_a_bar_and_the_result_stays_on_standard_output(repository: Path) -> None:
    out, shown = on_a_terminal(repository)
    assert out == "a result\n"
    assert "50/50 rows" in shown
    assert "rejected 50" in shown
    assert "━" in shown
    assert "\x1b[38;5;" in shown or "\x1b[9" in shown


def test_no_color_leaves_the_bar_and_takes_the_colour(repository: Path) -> None:
    _, shown = on_a_terminal(repository, NO_COLOR="1")
    assert "50/50 rows" in shown
    assert "\x1b[38;5;" not in shown
    assert "\x1b[9" not in shown


def test_a_dumb_terminal_gets_lines(repository: Path) -> None:
    _, shown = on_a_terminal(repository, TERM="dumb")
    assert "\x1b" not in shown
    assert shown.startswith("render: 50 rows in ")

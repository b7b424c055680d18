"""How far a long command is: a bar on a terminal, a plain line now and then elsewhere. Always on standard error."""

from __future__ import annotations

import os
import sys
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from rich.progress import Progress as RichProgress

__all__ = ["Progress"]

# The unit whose amounts are written as kB, MB, GB.
BYTES = "bytes"
SECONDS_BETWEEN_LINES = 5.0
SECONDS_BETWEEN_REFRESHES = 0.1


class Progress:
    """Context manager that shows amount, rate and time left of one piece of work.

    No thread draws: a worker process forked while a drawing thread holds a lock would hang. The display moves when
    `advance` is called.

    Args:
        total: amount of work in `unit`; None when it is unknown (no bar, no time left).
        unit: what is counted, such as "rows"; "bytes" is written as kB, MB, GB.
        label: the name of the work.
        done: amount that an earlier run finished; it counts for the bar and not for the rate.
        quiet: show nothing.
        stream: where to show it; standard error by default.
        clock: seconds, monotonic.
    """

    def __init__(
        self,
        total: float | None,
        unit: str,
        label: str,
        *,
        done: float = 0,
        quiet: bool = False,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total = total
        self.unit = unit
        self.label = label
        self.done = done
        self.counts: dict[str, int] = {}
        self._already = done
        self._quiet = quiet
        self._stream = sys.stderr if stream is None else stream
        self._clock = clock
        self._began = clock()
        self._shown = self._began
        self._bar: RichProgress | None = None

    def __enter__(self) -> Self:
        self._began = self._shown = self._clock()
        if not self._quiet and _is_terminal(self._stream):
            self._bar = _open_bar(self._stream, self.label, self.total)
            self._draw(self._bar)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._bar is not None:
            self._draw(self._bar)
            self._bar.stop()
        elif not self._quiet and (kind is None or self.done):  # an error before any work speaks for itself
            self._write(self._last_line(stopped=kind is not None))

    def advance(self, amount: float = 1, **counts: int) -> None:
        """Add finished work.

        Args:
            amount: in `unit`.
            counts: what to add to the counters shown behind, such as `rejected=2`.
        """
        self.done += amount
        for name, number in counts.items():
            self.counts[name] = self.counts.get(name, 0) + number
        if self._quiet:
            return
        now = self._clock()
        if self._bar is not None:
            if now - self._shown >= SECONDS_BETWEEN_REFRESHES:
                self._shown = now
                self._draw(self._bar)
        elif now - self._shown >= SECONDS_BETWEEN_LINES:
            self._shown = now
            self._write(self._line())

    def skip(self, amount: float) -> None:
        """Add work that an earlier run finished: it counts for the bar and not for the rate."""
        self.done += amount
        self._already += amount

    def _line(self) -> str:
        of = "" if self.total is None else f"/{_amount(self.total, self.unit)}"
        share = f" ({self.done / self.total:.0%})" if self.total else ""
        parts = [f"{_amount(self.done, self.unit)}{of} {_suffix(self.unit)}".rstrip() + share, *self._details()]
        return f"{self.label}: {', '.join(parts)}"

    def _last_line(self, *, stopped: bool) -> str:
        seconds = _duration(self._clock() - self._began)
        amount = f"{_amount(self.done, self.unit)} {_suffix(self.unit)}".rstrip()
        parts = [f"{amount} in {seconds}", self._rate_text(), *self._count_texts()]
        return f"{self.label}: {'stopped after ' if stopped else ''}{', '.join(part for part in parts if part)}"

    def _details(self) -> list[str]:
        """Rate, time left and counters, as far as they are known."""
        rate = self._rate()
        left = f"ETA {_duration((self.total - self.done) / rate)}" if self.total is not None and rate > 0 else ""
        return [part for part in (self._rate_text(), left, *self._count_texts()) if part]

    def _rate(self) -> float:
        """Units per second of this run; 0 while nothing is known."""
        seconds = self._clock() - self._began
        return (self.done - self._already) / seconds if seconds > 0 else 0.0

    def _rate_text(self) -> str:
        rate = self._rate()
        return f"{_amount(rate, self.unit)} {_suffix(self.unit)}".rstrip() + "/s" if rate > 0 else ""

    def _count_texts(self) -> list[str]:
        return [f"{name.replace('_', ' ')} {number:,}" for name, number in self.counts.items()]

    def _write(self, line: str) -> None:
        self._stream.write(line + "\n")
        self._stream.flush()

    def _draw(self, bar: RichProgress) -> None:
        amount = f"{_amount(self.done, self.unit)}"
        if self.total is not None:
            amount += f"/{_amount(self.total, self.unit)}"
        bar.update(
            bar.task_ids[0],
            completed=self.done,
            amount=f"{amount} {_suffix(self.unit)}".rstrip(),
            details=", ".join(self._details()),
        )
        bar.refresh()


def _is_terminal(stream: TextIO) -> bool:
    # A dumb terminal cannot move its cursor, so it gets lines.
    return stream.isatty() and os.environ.get("TERM", "") not in ("", "dumb")


def _open_bar(stream: TextIO, label: str, total: float | None) -> RichProgress:
    """A started rich bar; rich leaves out all colour when NO_COLOR is set."""
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn
    from rich.progress import Progress as RichProgress

    bar = RichProgress(
        TextColumn("{task.description}", markup=False),
        BarColumn(bar_width=24),
        TextColumn("{task.fields[amount]}", markup=False),
        TextColumn("{task.fields[details]}", markup=False),
        console=Console(file=stream, force_terminal=True),
        auto_refresh=False,
        # Results go to standard output as they are, also while the bar stands.
        redirect_stdout=False,
    )
    bar.add_task(label, total=total, amount="", details="")
    bar.start()
    return bar


def _amount(number: float, unit: str) -> str:
    if unit != BYTES:
        return f"{number:,.0f}" if number >= 10 or number == int(number) else f"{number:.2g}"
    for name in ("B", "kB", "MB", "GB"):
        if number < 1000:
            return f"{number:.0f} {name}" if name == "B" else f"{number:.1f} {name}"
        number /= 1000
    return f"{number:.1f} TB"


def _suffix(unit: str) -> str:
    return "" if unit == BYTES else unit


def _duration(seconds: float) -> str:
    """Whole minutes and seconds, with hours where there are any: `0:07`, `1:02:30`."""
    whole = max(0, round(seconds))
    hours, rest = divmod(whole, 3600)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"

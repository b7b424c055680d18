"""The bar of a training run: steps, loss, tokens per second, time left."""

from __future__ import annotations

import math

from datasets_io import Progress

__all__ = ["StepProgress"]

_SMOOTHING = 0.9


class StepProgress(Progress):
    """`Progress` in steps that also shows a smoothed loss and the rate in tokens.

    Args:
        total: steps of the run.
        done: steps of an earlier start.
        quiet: show nothing.
    """

    def __init__(self, total: int, *, done: int, quiet: bool) -> None:
        super().__init__(total, "steps", "train", done=done, quiet=quiet)
        self._loss = math.nan
        self._tokens = 0

    def start(self) -> None:
        """Count time from here: what came before was no step."""
        self._began = self._shown = self._clock()

    def step(self, loss: float, tokens: int) -> None:
        """One step is done."""
        self._loss = loss if math.isnan(self._loss) else _SMOOTHING * self._loss + (1 - _SMOOTHING) * loss
        self._tokens += tokens
        self.advance()

    def say(self, text: str) -> None:
        """A line for people, above the bar where there is one."""
        if self._quiet:
            return
        if self._bar is not None:
            self._bar.console.print(text, markup=False, highlight=False)
        else:
            self._write(text)

    def _count_texts(self) -> list[str]:
        if math.isnan(self._loss):
            return []
        seconds = max(self._clock() - self._began, 1e-9)
        return [f"loss {self._loss:.4g}", f"{self._tokens / seconds:,.0f} tokens/s"]

"""How many rejected rows are acceptable: a number, or a share of the rows read."""

from __future__ import annotations

import math
from typing import NamedTuple, Self

from renderers import OptionError

__all__ = ["RejectLimit"]


class RejectLimit(NamedTuple):
    """At most `rows`, or `percent` of the rows read when that is not None."""

    rows: int
    percent: float | None = None

    @classmethod
    def parse(cls, text: int | str) -> Self:
        """`3`, `"3"` or `"0.5%"`.

        Raises:
            OptionError: anything else.
        """
        value = str(text).strip()
        try:
            if value.endswith("%"):
                percent = float(value[:-1])
                if math.isfinite(percent) and 0 <= percent <= 100:
                    return cls(0, percent)
            elif int(value) >= 0:
                return cls(int(value))
        except ValueError:
            pass
        raise OptionError(f"max_rejects: expected a number of rows or a share such as 5%; got {text!r}")

    def allows(self, rejected: int, read: int) -> bool:
        """Whether so many of the rows read may be rejected."""
        return rejected <= (self.rows if self.percent is None else self.percent / 100 * read)

    def __str__(self) -> str:
        return str(self.rows) if self.percent is None else f"{self.percent:g}%"

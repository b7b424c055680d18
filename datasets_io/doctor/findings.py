"""One line of the doctor's answer."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

__all__ = ["Finding", "State"]


class State(StrEnum):
    """`OK` and `MISSING` (an optional part) are healthy; `WRONG` is a part of the base that does not work."""

    OK = "ok"
    MISSING = "missing"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was looked at, how it is, and what to do about it.

    Attributes:
        section: heading: `base`, `extras`, `names` or `machine`.
        name: the library, name or part.
        state: how it is.
        value: the version, amount or fault.
        advice: what to do; empty when there is nothing to do.
    """

    section: str
    name: str
    state: State
    value: str
    advice: str = ""

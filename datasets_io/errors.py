"""What can go wrong with a run as a whole; everything else is `renderers`' own tree.

UserError
├── TooManyRejectsError    more rejected rows than allowed; all output is written
└── WorkerDiedError        a worker process died twice on the same block; the run can be resumed
"""

from __future__ import annotations

from typing import ClassVar

from renderers import UserError

__all__ = ["TooManyRejectsError", "WorkerDiedError"]


class TooManyRejectsError(UserError):
    """More rows were rejected than `max_rejects` allows. Raised after everything has been written."""

    exit_code: ClassVar[int] = 3


class WorkerDiedError(UserError):
    """A worker died twice on one block: killed, or out of memory. Finished blocks stay."""

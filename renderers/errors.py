"""What can go wrong, and whose fault it is.

    DatumloomError
    ├── UserError                 a person can mend it: bad input, bad option, bad file
    │   ├── InputError            one place in the data: path, expectation, value, reason code
    │   │   ├── DroppedError      left out by a policy that the user chose
    │   │   └── RefusedError      the template or renderer refuses this message or turn
    │   ├── OptionError           an option's name, type or value
    │   └── MissingExtraError     an optional library is not installed; names the extra
    └── InternalError             ours: an invariant broke

Everything a user can cause is a `UserError`; the command line prints it as one line and exits with the error's
`exit_code`.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "DatumloomError",
    "DroppedError",
    "InputError",
    "InternalError",
    "MissingExtraError",
    "OptionError",
    "RefusedError",
    "UserError",
]


class DatumloomError(Exception):
    """Base of every error raised on purpose; `exit_code` is what a command ends with when nothing catches it."""

    exit_code: ClassVar[int] = 70


class UserError(DatumloomError, ValueError):
    """The caller can mend this; the message says where, what was expected and what came."""

    exit_code: ClassVar[int] = 2


class InputError(UserError):
    """One fault in the data.

    Attributes:
        field: path inside the row or call, such as `messages[2].role`; empty when it is the whole row.
        reason: stable code for counting, such as `unknown_role`.
        detail: the sentence without the place.
    """

    def __init__(self, field: str, reason: str, detail: str) -> None:
        self.field = field
        self.reason = reason
        self.detail = detail
        super().__init__(f"{field}: {detail}" if field else detail)

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        return type(self), (self.field, self.reason, self.detail)


class RefusedError(InputError):
    """The chat template or the renderer cannot express this message."""


class DroppedError(InputError):
    """Left out by a policy that the user chose, such as `turns="drop"`: counted, not an error of the data."""


class OptionError(UserError):
    """An option is unknown, has the wrong type or an impossible value."""


class MissingExtraError(UserError):
    """An optional library is missing.

    >>> str(MissingExtraError("torch", "train"))
    'torch is not installed; it comes with the extra "train": pip install "datumloom[train]"'
    """

    def __init__(self, library: str, extra: str) -> None:
        self.library = library
        self.extra = extra
        super().__init__(
            f'{library} is not installed; it comes with the extra "{extra}": pip install "datumloom[{extra}]"'
        )

    def __reduce__(self) -> tuple[type[MissingExtraError], tuple[str, str]]:
        return type(self), (self.library, self.extra)


class InternalError(DatumloomError):
    """An invariant of ours broke; worth a bug report."""

    exit_code: ClassVar[int] = 70

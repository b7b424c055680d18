"""How a request ends when it does not succeed.

DatumloomError
├── RequestFailedError            what a future raises; `category` says whose fault it is
│   └── RequestRefusedError       the caller's fault; a `UserError` too
└── UserError
    └── NotFoundError             no such session, run, checkpoint or sampler (of this owner)
"""

from __future__ import annotations

from renderers import DatumloomError, UserError

from .values import RequestErrorCategory

__all__ = ["NotFoundError", "RequestFailedError", "RequestRefusedError", "request_failed"]


class NotFoundError(UserError):
    """No such object, or another owner's, which is the same to the caller."""


class RequestFailedError(DatumloomError):
    """A request was accepted and then failed; the client stays usable.

    Attributes:
        message: what happened.
        request_id: which request.
        category: `server` or `user`.
    """

    def __init__(self, message: str, request_id: str, category: RequestErrorCategory) -> None:
        super().__init__(message)
        self.message = message
        self.request_id = request_id
        self.category = category

    def __reduce__(self) -> tuple[type[RequestFailedError], tuple[str, str, RequestErrorCategory]]:
        return type(self), (self.message, self.request_id, self.category)


class RequestRefusedError(RequestFailedError, UserError):
    """A failed request that the caller can mend."""

    exit_code = UserError.exit_code


def request_failed(error: BaseException, request_id: str) -> RequestFailedError:
    """`error` as the future raises it; the cause stays attached."""
    if isinstance(error, UserError):
        failed: RequestFailedError = RequestRefusedError(str(error), request_id, RequestErrorCategory.User)
    else:
        text = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
        failed = RequestFailedError(text, request_id, RequestErrorCategory.Server)
    failed.__cause__ = error
    return failed

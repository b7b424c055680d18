"""Local or remote, chosen in one place."""

from __future__ import annotations

from typing import Any

from renderers import MissingExtraError

from .service_client import ServiceClient

__all__ = ["connect"]


def connect(base_url: str | None = None, **options: Any) -> Any:
    """A `ServiceClient`: of this process without a `base_url`, else the official SDK's, pointed there.

    Args:
        base_url: such as `http://127.0.0.1:8000`.
        options: of the `ServiceClient` that comes.

    Raises:
        MissingExtraError: there is a `base_url` and the SDK is not installed.
    """
    if base_url is None:
        return ServiceClient(**options)
    try:
        from tinker import ServiceClient as RemoteServiceClient  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("tinker", "remote") from None
    return RemoteServiceClient(base_url=base_url, **options)

"""One module per chat-template family; each is found by being here and lists its renderers in `RENDERERS`."""

from __future__ import annotations

__all__: list[str] = []

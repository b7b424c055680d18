"""Commands that train and sample; each module is imported when its command is called."""

from __future__ import annotations

__all__: list[str] = []

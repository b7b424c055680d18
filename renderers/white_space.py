"""White space as `tokenizers` understands it."""

from __future__ import annotations

__all__ = ["WHITE_SPACE"]

# Unicode White_Space, which `tokenizers` strips around added tokens (Python's `str.strip` also takes \x1c-\x1f).
WHITE_SPACE = (
    "\t\n\x0b\x0c\r \x85\xa0\u1680" + "".join(map(chr, range(0x2000, 0x200B))) + "\u2028\u2029\u202f\u205f\u3000"
)

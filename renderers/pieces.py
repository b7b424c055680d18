"""What a family says a message looks like: template text and message text by turns."""

from __future__ import annotations

from typing import NamedTuple

__all__ = ["NOT_SHOWN", "MessageText", "Pieces", "join_pieces"]

Pieces = tuple[str, ...]
"""Template text, message text, template text, …: an odd number of strings."""


class MessageText(NamedTuple):
    """One message as its template writes it.

    Attributes:
        header: role header, never trained.
        body: what is said, ending with the stop token: what training on the message trains.
        rest: template text after the stop token.
    """

    header: Pieces
    body: Pieces
    rest: Pieces = ("",)


NOT_SHOWN = MessageText(("",), ("",))
"""A message that its template passes over; counted as `message_not_shown`."""


def join_pieces(*parts: Pieces) -> Pieces:
    """Pieces one after another; template text that meets template text becomes one.

    >>> join_pieces(("a", "b", "c"), ("d", "e", ""))
    ('a', 'b', 'cd', 'e', '')
    """
    joined = list(parts[0])
    for part in parts[1:]:
        joined[-1] += part[0]
        joined += part[1:]
    return tuple(joined)

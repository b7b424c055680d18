"""Text a person can see all of: spaces, line breaks, controls and stray bytes each get a mark of their own."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from typing import Literal, NamedTuple

__all__ = ["Piece", "byte_mark", "pieces", "printable", "token_text", "visible"]

PieceKind = Literal["text", "space", "newline", "mark"]

_MARKS = {" ": "␣", "\n": "↵", "\t": "⇥", "\r": "␍"}
# Where the text itself has one of our marks it is written by its number, so that no mark can be mistaken.
_OURS = frozenset("␣↵⇥␍⟨⟩◌")
_JOINERS = "\u200c\u200d"


class Piece(NamedTuple):
    """A stretch of one kind: `shown` is for people, `raw` is what it stands for."""

    kind: PieceKind
    shown: str
    raw: str


def pieces(text: str) -> Iterator[Piece]:
    """Text cut into what is shown as it is and what needs a mark.

    >>> [piece.shown for piece in pieces("a b\\x00\\n")]
    ['a', '␣', 'b', '⟨U+0000⟩', '↵']
    """
    plain = ""
    for position, character in enumerate(text):
        if _is_plain(text, position):
            # A combining character cannot stand alone; the dotted circle is what Unicode shows it on.
            alone = position == 0 and unicodedata.category(character).startswith("M")
            plain += f"◌{character}" if alone else character
            continue
        if plain:
            yield Piece("text", plain, plain.removeprefix("◌"))
            plain = ""
        mark = _MARKS.get(character)
        kind: PieceKind = "space" if character == " " else "newline" if character == "\n" else "mark"
        yield Piece(kind, mark or f"⟨U+{ord(character):04X}⟩", character)
    if plain:
        yield Piece("text", plain, plain.removeprefix("◌"))


def visible(text: str) -> str:
    """`pieces` joined: ` ` as ␣, a line break as ↵, what cannot be seen as ⟨U+200B⟩."""
    return "".join(piece.shown for piece in pieces(text))


def byte_mark(data: bytes) -> str:
    """Bytes that are not whole characters.

    >>> byte_mark(b"\\xe4\\xbd")
    '⟨E4 BD⟩'
    """
    return f"⟨{data.hex(' ').upper()}⟩"


def token_text(data: bytes) -> str:
    """A token alone: whole characters as they are, other bytes by their numbers.

    >>> token_text(" 你".encode()[:3])
    '␣⟨E4 BD⟩'
    """
    shown: list[str] = []
    rest = data
    while rest:
        try:
            shown.append(visible(rest.decode()))
            break
        except UnicodeDecodeError as error:
            shown.append(visible(rest[: error.start].decode()))
            # A cut-off character is one mark, not one per byte: it ends where the next one starts.
            stop = error.start + 1
            while stop < len(rest) and rest[stop] & 0xC0 == 0x80:
                stop += 1
            shown.append(byte_mark(rest[error.start : stop]))
            rest = rest[stop:]
    return "".join(shown) or "⟨⟩"


def printable(text: str) -> str:
    """A name or message on one line, controls escaped: it may quote anything."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def _is_plain(text: str, position: int) -> bool:
    character = text[position]
    if character in _JOINERS:
        # Inside a run they hold emoji and letters together; at its end there is nothing to hold.
        return 0 < position < len(text) - 1 and _joinable(text[position - 1]) and _joinable(text[position + 1])
    return character.isprintable() and character != " " and character not in _OURS


def _joinable(character: str) -> bool:
    return character.isprintable() and not character.isspace() and not character.isascii()

"""Row views for a terminal, plain or styled. What is trained is marked by signs, never by colour alone."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import TYPE_CHECKING, TextIO

from .view import RowView, TokenView
from .visible import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

__all__ = ["is_styled", "plain_text", "print_styled"]

_COLUMNS = ("", "pos", "id", "token", "weight", "role", "target")
_RIGHT = (False, True, True, False, True, False, False)
_WIDEST = 44
_TRAINED = "*"
_OPEN, _CLOSE = "▸", "◂"
_STYLE = {"trained": "bold underline green", "negative": "bold underline magenta", "control": "dim", "role": "bold"}


def is_styled(stream: TextIO) -> bool:
    """Whether styles are welcome: a terminal, and neither NO_COLOR nor a dumb terminal."""
    return stream.isatty() and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def plain_text(view: RowView) -> str:
    """Heading, legend and one line per token, aligned by the width of the characters."""
    from rich.cells import cell_len

    table = [list(_COLUMNS), *(_cells(token, view) for token in view.tokens)]
    widths = [max(cell_len(row[i]) for row in table) for i in range(len(_COLUMNS))]
    lines = [
        "  ".join(_padded(cell, width, right) for cell, width, right in zip(row, widths, _RIGHT, strict=True)).rstrip()
        for row in table
    ]
    return "\n".join([_heading(view), *_legend(view), "", *lines])


def print_styled(view: RowView, console: Console | None = None) -> None:
    """The same table with styles, and below it the text as it reads, its trained stretches between ▸ and ◂."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = console or Console(highlight=False)
    console.print(Text(_heading(view), "bold"))
    for line in _legend(view):
        console.print(Text(line, "dim"))
    console.print()
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 2, 0, 0))
    for name, right in zip(_COLUMNS, _RIGHT, strict=True):
        table.add_column(name, justify="right" if right else "left", no_wrap=name in ("pos", "id", "weight"))
    for token in view.tokens:
        style = _style(token)
        cells = _cells(token, view)
        table.add_row(
            *(Text.assemble((cell, style if name in ("", "token", "weight") else "")) for name, cell in _named(cells))
        )
    console.print(table)
    for text in _reading(view):
        console.print()
        console.print(text)


def _named(cells: list[str]) -> Iterator[tuple[str, str]]:
    return zip(_COLUMNS, cells, strict=True)


def _heading(view: RowView) -> str:
    facts = [f"{name} {value}" for name, value in view.facts.items()]
    share = f"{view.num_tokens:,} tokens, {view.num_trained:,} trained"
    return " · ".join(printable(part) for part in (view.name, view.place, *facts, share) if part)


def _legend(view: RowView) -> list[str]:
    marks = f"{_TRAINED} trained. ␣ space, ↵ line break, ⟨E4 BD⟩ bytes of a character, = what they become together."
    if view.shifted:
        meaning = "weight: of the token itself, as a target. target: what a position predicts, the token after it."
    else:
        meaning = "weight: of the position's targets, which are not the tokens after it."
    return [marks, meaning if view.weighted else f"{meaning} No weights are given: each position counts 1."]


def _cells(token: TokenView, view: RowView) -> list[str]:
    text = f"{token.text}  = {token.run_text}" if token.run_text else token.text
    message = "-" if token.message is None else str(token.message)
    return [
        _TRAINED if token.trained else "",
        str(token.position),
        "-" if token.id is None else str(token.id),
        _short(text),
        "-" if token.weight is None else f"{token.weight:g}",
        f"{message} {token.role or 'template'}",
        _short(", ".join(_target(token, view))) or "-",
    ]


def _target(token: TokenView, view: RowView) -> list[str]:
    several = not view.shifted and len(token.targets) > 1
    return [f"{t.id} {t.text}" + (f" ×{t.weight:g}" if several else "") for t in token.targets]


def _short(text: str) -> str:
    return text if len(text) <= _WIDEST else f"{text[: _WIDEST - 8]}…+{len(text) - _WIDEST + 8}"


def _padded(cell: str, width: int, right: bool) -> str:
    from rich.cells import cell_len

    space = " " * (width - cell_len(cell))
    return space + cell if right else cell + space


def _style(token: TokenView) -> str:
    if token.trained:
        return _STYLE["trained" if (token.weight or 0) > 0 else "negative"]
    return _STYLE["control"] if token.control else ""


def _reading(view: RowView) -> Iterator[Text]:
    """The text of each message under its role."""
    from rich.text import Text

    for message in view.messages():
        first = message[0]
        number = "" if first.message is None else f"{first.message} "
        text = Text.assemble((f"{number}{first.role or 'template'}\n", _STYLE["role"]))
        weight: float | None = None
        for token in message:
            now = token.weight if token.trained else None
            if now != weight:
                text.append(_CLOSE if weight is not None else "", "bold")
                text.append("" if now is None else f"{_OPEN}{'' if now == 1 else f'{now:g} '}", "bold")
                weight = now
            text.append(_shown(token), _style(token))
        text.append(_CLOSE if weight is not None else "", "bold")
        text.rstrip()
        yield text


def _shown(token: TokenView) -> str:
    """For reading: tokens of one character show it once, spaces are spaces, lines break."""
    if token.run != token.position:
        return ""
    text = token.run_text or token.text
    return text.replace("␣", " ").replace("↵", "↵\n")

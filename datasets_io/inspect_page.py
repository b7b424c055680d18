"""The token page: row views as one HTML file with its own script."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import orjson
from markupsafe import Markup, escape

from renderers import OptionError

from .lookup import Found
from .pages import render_page
from .view import RowView, TokenView
from .visible import pieces, printable

__all__ = ["MAX_PAGE_TOKENS", "inspect_page"]

MAX_PAGE_TOKENS = 400_000
"""More would make a page that browsers struggle with."""

_HEAT_LEVELS = 5


@dataclass(slots=True)
class _Stretch:
    """Neighbouring tokens that are all trained, or all not."""

    trained: bool
    label: str
    html: Markup


@dataclass(slots=True)
class _Message:
    number: int | None
    role: str
    num_tokens: int
    num_trained: int
    stretches: list[_Stretch]


@dataclass(slots=True)
class _Row:
    view: RowView
    messages: list[_Message]


def inspect_page(found: Found) -> str:
    """The page.

    Raises:
        OptionError: too many tokens for one page.
    """
    total = sum(len(view.tokens) for view in found.views)
    if total > MAX_PAGE_TOKENS:
        raise OptionError(
            f"rows: expected at most {MAX_PAGE_TOKENS:,} tokens in a page; these {len(found.views)} have {total:,}"
        )
    return render_page(
        "inspect.html.j2",
        styles=["page.css", "inspect.css"],
        script="inspect.js",
        title=printable(found.title),
        left_out=found.left_out,
        rows=[_Row(view, list(_messages(view))) for view in found.views],
        data=_script_json(_data(found.views)),
    )


def _messages(view: RowView) -> Iterator[_Message]:
    largest = view.largest_weight
    for tokens in view.messages():
        stretches = [
            _stretch(trained, list(members), largest)
            for trained, members in groupby(_runs(tokens), key=lambda run: run[0].trained)
        ]
        num_tokens = sum(token.length for token in tokens)
        num_trained = sum(token.trained for token in tokens)
        yield _Message(tokens[0].message, tokens[0].role or "template", num_tokens, num_trained, stretches)


def _runs(tokens: Sequence[TokenView]) -> Iterator[list[TokenView]]:
    """Tokens that are characters only together, in one list."""
    for _, members in groupby(tokens, key=lambda token: token.run):
        yield list(members)


def _stretch(trained: bool, runs: list[list[TokenView]], largest: float) -> _Stretch:
    size = sum(len(run) for run in runs)
    html = Markup("").join(_run_html(run, largest) for run in runs)
    return _Stretch(trained, f"{size:,} token{'' if size == 1 else 's'}", html)


def _run_html(run: list[TokenView], largest: float) -> Markup:
    if len(run) == 1:
        return _token_html(run[0], largest)
    whole = _text_html(b"".join(token.bytes for token in run).decode())
    parts = Markup("").join(_token_html(token, largest) for token in run)
    names = " ".join(["run", *(name for name in _classes(run[0], largest).split() if name in ("y", "neg"))])
    return Markup('<span class="{}"><span class="whole">{}</span>{}</span>').format(names, whole, parts)


def _token_html(token: TokenView, largest: float) -> Markup:
    return Markup('<span class="{}" tabindex="-1">{}</span>').format(_classes(token, largest), _token_text(token))


def _classes(token: TokenView, largest: float) -> str:
    names = ["t"]
    if token.control:
        names.append("c")
    if token.trained:
        weight = token.weight or 0.0
        names += ["y", f"h{max(1, math.ceil(_HEAT_LEVELS * abs(weight) / largest - 1e-6))}"]
        if weight < 0:
            names.append("neg")
    return " ".join(names)


def _token_text(token: TokenView) -> Markup:
    try:
        text = token.bytes.decode()
    except UnicodeDecodeError:
        text = ""
    return _text_html(text) if text else Markup('<i class="m">{}</i>').format(token.text)


def _text_html(text: str) -> Markup:
    """Text whose white space stays white space: the style sheet draws its marks, so what is copied is right."""
    parts: list[Markup] = []
    for kind, members in groupby(pieces(text), key=lambda piece: piece.kind):
        found = list(members)
        if kind == "text":
            parts += [escape(piece.shown) for piece in found]
        elif kind == "space":
            parts.append(Markup('<span class="s">{}</span>').format(" " * len(found)))
        elif kind == "newline":
            parts.append(Markup('<span class="n"></span>\n') * len(found))
        else:
            parts += [Markup('<i class="m">{}</i>').format(piece.shown) for piece in found]
    return Markup("").join(parts)


# -- what the script reads


def _data(views: Sequence[RowView]) -> dict[str, Any]:
    vocabulary: dict[str, tuple[str, str]] = {}
    for view in views:
        for token in view.tokens:
            if token.id is not None:
                vocabulary[str(token.id)] = (token.bytes.hex(), token.text)
            for target in token.targets:
                vocabulary.setdefault(str(target.id), ("", target.text))
    return {"vocabulary": vocabulary, "rows": [_row_data(view) for view in views]}


def _row_data(view: RowView) -> dict[str, Any]:
    tokens = view.tokens
    inputs = {name: [token.inputs[name] for token in tokens if name in token.inputs] for name in tokens[0].inputs}
    return {
        "ids": [token.id for token in tokens],
        "positions": [token.position for token in tokens],
        "offsets": [token.offset for token in tokens],
        "weights": [token.weight for token in tokens],
        "messages": [token.message for token in tokens],
        "roles": [token.role for token in tokens],
        "images": {i: token.text for i, token in enumerate(tokens) if token.id is None},
        "runs": [[run[0][0], len(run)] for run in _numbered_runs(tokens) if len(run) > 1],
        # Where every target is the next token, the script finds it there.
        "targets": None if view.shifted else [[(t.id, t.weight) for t in token.targets] for token in tokens],
        "inputs": inputs,
    }


def _numbered_runs(tokens: Sequence[TokenView]) -> Iterator[list[tuple[int, TokenView]]]:
    for _, members in groupby(enumerate(tokens), key=lambda pair: pair[1].run):
        yield list(members)


def _script_json(value: Any) -> Markup:
    """JSON that no text in it can end a script element with."""
    text = orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS).decode()
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return Markup(text)  # noqa: S704

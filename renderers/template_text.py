"""Template text, taken apart once: its control tokens with the text between them, as known ids.

The same few template texts come again and again, so taking one apart may be slow; what comes of it is one look-up.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from .tokenizer import ControlToken, Tokenizer
from .white_space import WHITE_SPACE

__all__ = ["MARK", "NOT_PLAIN", "NO_BEGINS", "Begins", "Compiled", "PlainShape", "compile_template"]

MARK = "\ufdd4"
"""Where a message begins inside collected template text: a noncharacter, which no valid text contains."""


class Begins(NamedTuple):
    """How many messages begin in a text: before any of it, inside, and after all of it."""

    before: int
    inside: int
    after: int


NO_BEGINS = Begins(0, 0, 0)


class Compiled(NamedTuple):
    """Collected template text, taken apart.

    Attributes:
        lead: text before the first control token; it ends the open stretch. All text when there is no control token.
        lead_begins: messages that begin in `lead`; when `lead` is empty, all count as after it.
        strip_lead: the first control token takes white space before it.
        constants: what lies between the first control token and the tail, split where messages begin: the constant's
            source number, how many messages begin right before it, and whether they begin exactly there (and not in
            text inside the constant before).
        tail: text after the last control token; it begins the next stretch.
        tail_begins: messages that begin in `tail`; when `tail` is empty, all count as before it.
        swallow: the last control token takes white space after it.
        is_simple: there is a control token, and no message begins anywhere but at a constant.
    """

    lead: str
    lead_begins: Begins
    strip_lead: bool
    constants: tuple[tuple[int, int, bool], ...]
    tail: str
    tail_begins: Begins
    swallow: bool
    is_simple: bool


class PlainShape(NamedTuple):
    """The constants around the text of a plain message.

    Attributes:
        lead: text that ends the open stretch; part of `before`, as the stretch must be empty.
        before: source number of what closes the message before, 0 for nothing.
        header: of the header, with its text when the message is trained.
        tail: text of the header's end; it begins the stretch of an untrained message.
        stop: of what ends a trained message.
        after: template text that is left to be written.
    """

    is_plain: bool
    lead: str
    before: int
    header: int
    tail: str
    stop: int
    after: str


NOT_PLAIN = PlainShape(False, "", 0, 0, "", 0, "")


def compile_template(template: str, tokenizer: Tokenizer, constant: Callable[[object, list[int]], int]) -> Compiled:
    """Take collected template text apart.

    Args:
        template: text with `MARK` wherever a message begins.
        tokenizer: knows the control tokens, and encodes the text between them.
        constant: `constant(key, ids)` keeps known ids and gives their source number.
    """
    stretches: list[list[str]] = [[]]  # text and marks between control tokens
    tokens: list[ControlToken] = []
    for k, segment in enumerate(template.split(MARK)):
        if k:
            stretches[-1].append(MARK)
        for part in tokenizer.split(segment):
            if isinstance(part, str):
                stretches[-1].append(part)
            else:
                tokens.append(part)
                stretches.append([])
    lead, begins = _text_and_begins(stretches[0])
    if not tokens:
        return Compiled(lead, begins, False, (), "", NO_BEGINS, False, False)
    after = begins.after if lead else sum(begins)
    tail, tail_begins = _text_and_begins(stretches[-1])
    constants = _constants(tokens, stretches[1:-1], after, tokenizer, constant, exact=not begins.inside)
    # Those that begin right at the first control token are counted with its constant.
    begins = Begins(begins.before, begins.inside, 0) if lead and sum(begins) > after else NO_BEGINS
    strip = tokens[0].lstrip
    simple = not strip and begins is NO_BEGINS and tail_begins is NO_BEGINS
    return Compiled(lead, begins, strip, constants, tail, tail_begins, tokens[-1].rstrip, simple)


def _constants(
    tokens: list[ControlToken],
    stretches: list[list[str]],
    begins_first: int,
    tokenizer: Tokenizer,
    constant: Callable[[object, list[int]], int],
    *,
    exact: bool,
) -> tuple[tuple[int, int, bool], ...]:
    """The control tokens and the text between them, a new constant wherever messages begin."""
    continuation = tokenizer.prefix_space_once
    groups: list[tuple[list[int], int, bool]] = [([tokens[0].id], begins_first, exact)]

    def begin(count: int, *, exact: bool) -> None:
        if count and not groups[-1][0]:
            groups[-1] = ([], groups[-1][1] + count, groups[-1][2] and exact)
        elif count:
            groups.append(([], count, exact))

    for before, token, stretch in zip(tokens[:-1], tokens[1:], stretches, strict=True):
        text, begins = _text_and_begins(stretch)
        if before.rstrip:
            text = text.lstrip(WHITE_SPACE)
        if token.lstrip:
            text = text.rstrip(WHITE_SPACE)
        begin(begins.before, exact=not before.rstrip)
        if text:
            groups[-1][0].extend(tokenizer.encode_text(text, continuation=continuation))
        begin(begins.inside + begins.after, exact=not begins.inside)
        groups[-1][0].append(token.id)
    return tuple((constant(tuple(ids), ids), count, exact) for ids, count, exact in groups)


def _text_and_begins(stretch: list[str]) -> tuple[str, Begins]:
    texts = [i for i, part in enumerate(stretch) if part != MARK]
    if not texts:
        return "", Begins(len(stretch), 0, 0) if stretch else NO_BEGINS
    before, after = texts[0], len(stretch) - 1 - texts[-1]
    inside = len(stretch) - len(texts) - before - after
    begins = Begins(before, inside, after)
    return "".join(stretch[i] for i in texts), begins if sum(begins) else NO_BEGINS

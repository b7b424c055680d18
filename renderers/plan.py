"""A block of examples before it is encoded: which ids are known, which text is to be encoded, with what weight.

Renderers write in order through a `Plan`; `Plan.encode` encodes all text of the block in one or two calls and
assembles every example with numpy. Between two control tokens lies one *stretch* of text, encoded as a whole, which
is what a tokenizer does with the rendered prompt. A *cut* splits a stretch where a trained turn starts: the prompt's
text is encoded whole, and the turn's text as what follows it.

Template text is only collected until message text, a cut or the end comes. The same few template texts come again and
again, so each is taken apart once, and from then on is one look-up (`_Compiled`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from .assembly import CONTINUATION, START, Pieces, assemble
from .errors import RefusedError
from .images import ImageText
from .rendered import ControlTokens, Refusal, RenderedBlock
from .tokenizer import WHITE_SPACE, ControlToken, Tokenizer
from .types import ImageChunk

__all__ = ["Plan"]

_MARK = "\ufdd4"
"""Where a message begins inside collected template text: a noncharacter, which no valid text contains."""
_IMAGE_POSITION = -1
"""Stands for an image's positions until the block is assembled; no token has this id."""
_SHORT = 32
"""Text this short before a cut is taken for a header that comes again."""


class _Begins(NamedTuple):
    """How many messages begin in a text: before any of it, inside, and after all of it."""

    before: int
    inside: int
    after: int


_NONE = _Begins(0, 0, 0)


class _Compiled(NamedTuple):
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
    """

    lead: str
    lead_begins: _Begins
    strip_lead: bool
    constants: tuple[tuple[int, int, bool], ...]
    tail: str
    tail_begins: _Begins
    swallow: bool


class Plan:
    """Collects the pieces of many examples.

    Attributes:
        control_tokens: what a control token in message text becomes.
        control_in_content: whether message text written since this was last set to False contained one.
        counts: events by name.
        refusals: what was refused.
    """

    def __init__(self, tokenizer: Tokenizer, control_tokens: ControlTokens = "text") -> None:
        self.tokenizer = tokenizer
        self.control_tokens: ControlTokens = control_tokens
        self.control_in_content = False
        self.counts: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        self._search = tokenizer.control_pattern.search
        self._prefix_space = tokenizer.has_prefix_space
        self._pieces = Pieces()
        self._conversation: list[int] = []
        self._turn: list[int] = []
        self._compiled: dict[str, _Compiled] = {}
        self._constant_of: dict[object, int] = {}
        self._images: dict[int, ImageChunk] = {}  # by the source number of their constant
        # Where messages begin, as numbers of pieces: of the open example, and of the last one.
        self._marks: dict[int, int] = {}
        self._last_marks: dict[int, int] = {}
        self._last_start = 0
        self._reset()

    def _reset(self) -> None:
        self._template = ""  # template text, collected
        self._begins: list[int] = []  # messages that begin in it, one for each mark
        self._open = ""  # text of the open stretch before it
        self._start = True  # the open stretch follows a control token (or nothing)
        self._swallow = False  # ... which takes white space with it
        self._late: list[int] = []  # messages that begin inside the open stretch
        self._message = -1
        self._weight = 0.0
        self._cut_left: str | None = None
        self._cut_swallow = False
        self._cut_bad = False
        self._marks = {}

    # -- writing

    def template(self, text: str) -> None:
        """Template text: its control tokens are live. Meant for few distinct texts."""
        self._template += text

    def content(self, text: str) -> None:
        """Message text: never a control token (unless `control_tokens` is `parse`)."""
        if text:
            if self._search(text):
                self._hostile(text)
            else:
                if self._template:
                    self._close()
                self._open += text

    def raw_content(self, text: str) -> None:
        """Message text that has been looked through already; never a control token."""
        if text:
            if self._template:
                self._close()
            self._open += text

    def write(self, pieces: Sequence[str]) -> None:
        """Template text and message text by turns, as families write them (see `renderers.family`)."""
        if len(pieces) == 1:
            self._template += pieces[0]
            return
        template = True
        for piece in pieces:
            if template:
                self._template += piece
            elif piece:
                self.content(piece)
            template = not template

    def dynamic_template(self, text: str) -> None:
        """Template text with message text in it, all control tokens live."""
        for part in self.tokenizer.split(text):
            if isinstance(part, str):
                self.raw_content(part)
            else:
                self._template += part.text

    def control(self, token: ControlToken) -> None:
        """One control token."""
        self._template += token.text

    def ids(self, tokens: Sequence[int]) -> None:
        """Ids that are already tokens, such as a sampled completion."""
        self._close_all()
        self._piece(self._constant(tuple(tokens), list(tokens)))
        # Text after sampled text continues it; after a control token it starts a stretch.
        self._start = bool(tokens) and tokens[-1] in self.tokenizer.control_ids
        self._swallow = False

    def image(self, chunk: ImageChunk) -> None:
        """An image, between two control tokens; its positions are never trained."""
        self._close_all()
        source = self._constant(chunk, [_IMAGE_POSITION] * chunk.length)
        self._images[source] = chunk
        self._piece(source)
        self._start, self._swallow = True, False

    def begin_message(self, index: int) -> None:
        """What follows belongs to message `index`; a stretch that is open stays with the message it began in."""
        self._template += _MARK
        self._begins.append(index)

    def begin_body(self, weight: float) -> None:
        """What follows, up to `end_body`, is trained with `weight`, unless that is 0."""
        if weight:
            self.cut()
            self._weight = weight

    def end_body(self) -> None:
        """Back to weight 0."""
        if self._weight:
            if self._template:
                self._close()
            if self._open:
                self.cut()
            self._weight = 0.0

    def cut(self) -> None:
        """Split the open stretch here: what is written of it is encoded by itself, and so is what follows."""
        if self._template:
            self._close()
        left, start, swallow = self._open, self._start, self._swallow
        if left:
            self._text(left, constant=len(left) < _SHORT)
        if left or swallow or not start:
            self._cut_left, self._cut_swallow = left, swallow and start
            # The left part may be swallowed white space only; what follows then still starts the stretch.
            self._start = start and not (left.lstrip(WHITE_SPACE) if swallow else left)
            self._swallow = False

    def merged(self) -> bool:
        """Whether a cut since the last call fell where whole-text encoding has no boundary."""
        self._close_all()
        bad, self._cut_bad = self._cut_bad, False
        return bad

    def reuse(self, message: int) -> bool:
        """Begin an example with what the last one begins with, up to its message `message`, untrained.

        Text that examples of a conversation share is encoded once. Returns False, with nothing written, where the
        last example has no control token at the start of that message to cut it at.
        """
        stop = self._last_marks.get(message)
        if stop is None:
            return False
        pieces = self._pieces
        start, here = self._last_start, len(pieces.source)
        pieces.source += pieces.source[start:stop]
        pieces.weights += [0.0] * (stop - start)
        pieces.messages += pieces.messages[start:stop]
        self._marks = {m: mark - start + here for m, mark in self._last_marks.items() if m <= message}
        return True

    def end_example(self, conversation: int, turn: int) -> None:
        """Close the example; `turn` is its last trained message, -1 when it holds the whole conversation."""
        self._close_all()
        ends = self._pieces.example_ends
        self._last_start = ends[-1] if ends else 0
        self._last_marks = self._marks
        ends.append(len(self._pieces.source))
        self._conversation.append(conversation)
        self._turn.append(turn)
        self._reset()

    def position(self) -> tuple[int, int, int]:
        """Where to `rewind` to if the conversation that starts now is refused half way."""
        return len(self._pieces.source), len(self._pieces.example_ends), len(self.refusals)

    def rewind(self, position: tuple[int, int, int]) -> None:
        """Forget everything written since `position` except texts, which cost only their encoding."""
        count, examples, refusals = position
        pieces = self._pieces
        del pieces.source[count:], pieces.weights[count:], pieces.messages[count:]
        del pieces.example_ends[examples:], self._conversation[examples:], self._turn[examples:]
        del self.refusals[refusals:]
        self._reset()

    def encode(self) -> RenderedBlock:
        """Encode every text and assemble every example; raises `ParityError` as `Tokenizer.encode_texts` does."""
        columns = assemble(self._pieces, self.tokenizer)
        images: list[tuple[int, int, ImageChunk]] = []
        if self._images:
            images = self._placed_images(columns.tokens, columns.offsets)
            at = columns.tokens == _IMAGE_POSITION
            columns.tokens[at], columns.weights[at] = 0, 0.0
        return RenderedBlock(
            tokens=columns.tokens,
            weights=columns.weights,
            offsets=columns.offsets,
            run_starts=columns.run_starts,
            run_messages=columns.run_messages,
            run_offsets=columns.run_offsets,
            conversation=np.asarray(self._conversation, np.int32),
            turn=np.asarray(self._turn, np.int16),
            refusals=list(self.refusals),
            counts=Counter(self.counts),
            images=images,
        )

    def _placed_images(
        self, tokens: npt.NDArray[np.int32], offsets: npt.NDArray[np.int64]
    ) -> list[tuple[int, int, ImageChunk]]:
        """Example, position in it and chunk of every image."""
        chunks = [self._images[source] for source in self._pieces.source if source in self._images]
        positions = np.flatnonzero(tokens == _IMAGE_POSITION)
        placed: list[tuple[int, int, ImageChunk]] = []
        done = 0
        for chunk in chunks:
            start = int(positions[done])
            done += chunk.length
            example = int(np.searchsorted(offsets, start, side="right")) - 1
            placed.append((example, start - int(offsets[example]), chunk))
        return placed

    # -- closing what is open

    def _close(self) -> None:
        """Turn the collected template text into pieces, up to the stretch that its end leaves open."""
        template, self._template = self._template, ""
        compiled = self._compiled.get(template)
        if compiled is None:
            compiled = self._compiled[template] = self._compile(template)
        lead, lead_begins, strip_lead, constants, tail, tail_begins, swallow = compiled
        inside = 0
        if lead_begins is not _NONE:
            before, inside, after = lead_begins
            if before and not self._open:
                self._begin(before, exact=False)
            else:
                inside += before
            if not constants:
                self._begin_late(inside + after)
        if not constants:
            self._open += lead
            return
        open_text = self._open
        text = open_text + lead if open_text else lead
        if strip_lead:
            text = text.rstrip(WHITE_SPACE)
        if text:
            self._text(text, constant=not open_text)
        if self._cut_left is not None:
            # A cut right before a control token is a boundary anyway, unless the token swallows what is left of it.
            self._cut_bad |= strip_lead and self._cut_left != self._cut_left.rstrip(WHITE_SPACE)
            self._cut_left = None
        if inside:
            self._begin(inside, exact=False)
        pieces, weight = self._pieces, self._weight
        for source, begins, exact in constants:
            if begins:
                self._begin(begins, exact=exact)
            pieces.source.append(source)
            pieces.weights.append(weight)
            pieces.messages.append(self._message)
        self._open, self._start, self._swallow = tail, True, swallow
        if tail_begins is not _NONE:
            if tail_begins.before:
                self._begin(tail_begins.before, exact=not swallow)
            self._begin_late(tail_begins.inside + tail_begins.after)

    def _begin_late(self, count: int) -> None:
        """The next `count` messages begin inside the open stretch, which stays with the message it began in."""
        if count:
            self._late += self._begins[:count]
            del self._begins[:count]

    def _close_all(self) -> None:
        if self._template:
            self._close()
        if self._open:
            self._text(self._open, constant=len(self._open) < _SHORT)

    def _begin(self, count: int, *, exact: bool) -> None:
        """The next `count` messages begin here; `exact`: at this very piece, so that an example can be cut here."""
        self._message = self._begins[count - 1]
        if exact and not self._cut_bad:
            for message in self._begins[:count]:
                self._marks.setdefault(message, len(self._pieces.source))
        del self._begins[:count]

    def _text(self, text: str, *, constant: bool) -> None:
        """One piece of text, the open stretch or what is left of it; `constant`: it will come again."""
        if self._cut_left is not None:
            if not self.tokenizer.joins_cleanly(self._cut_left, text, swallow=self._cut_swallow):
                self._cut_bad = True
            self._cut_left = None
        if self._swallow:
            text = text.lstrip(WHITE_SPACE)
            self._swallow = False
        kind = START
        if self._prefix_space and not (self._at_sequence_start() if self.tokenizer.prefix_space_once else self._start):
            kind = CONTINUATION
        if text:
            if constant:
                source = self._constant_of.get((text, kind))
                if source is None:
                    ids = self.tokenizer.encode_text(text, continuation=kind == CONTINUATION)
                    source = self._constant((text, kind), ids)
            else:
                texts = self._pieces.texts[kind]
                source = 2 * len(texts) + kind
                texts.append(text)
            pieces = self._pieces
            pieces.source.append(source)
            pieces.weights.append(self._weight)
            pieces.messages.append(self._message)
            self._start = False
        self._open = ""
        if self._late:
            self._message = self._late[-1]
            self._late = []

    def _piece(self, source: int) -> None:
        pieces = self._pieces
        pieces.source.append(source)
        pieces.weights.append(self._weight)
        pieces.messages.append(self._message)

    def _constant(self, key: object, ids: list[int]) -> int:
        source = self._constant_of.get(key)
        if source is None:
            source = self._constant_of[key] = self._pieces.constant(ids)
        return source

    def _at_sequence_start(self) -> bool:
        ends = self._pieces.example_ends
        return len(self._pieces.source) == (ends[-1] if ends else 0)

    # -- taking template text apart

    def _compile(self, template: str) -> _Compiled:
        stretches: list[list[str]] = [[]]  # text and marks between control tokens
        tokens: list[ControlToken] = []
        for k, segment in enumerate(template.split(_MARK)):
            if k:
                stretches[-1].append(_MARK)
            for part in self.tokenizer.split(segment):
                if isinstance(part, str):
                    stretches[-1].append(part)
                else:
                    tokens.append(part)
                    stretches.append([])
        lead, begins = _text_and_begins(stretches[0])
        if not tokens:
            return _Compiled(lead, begins, False, (), "", _NONE, False)
        after = begins.after if lead else sum(begins)
        tail, tail_begins = _text_and_begins(stretches[-1])
        constants = self._constants(tokens, stretches[1:-1], after, exact=not begins.inside)
        # Those that begin right at the first control token are counted with its constant.
        begins = _Begins(begins.before, begins.inside, 0) if lead and sum(begins) > after else _NONE
        return _Compiled(lead, begins, tokens[0].lstrip, constants, tail, tail_begins, tokens[-1].rstrip)

    def _constants(
        self, tokens: list[ControlToken], stretches: list[list[str]], begins_first: int, *, exact: bool
    ) -> tuple[tuple[int, int, bool], ...]:
        """The control tokens and the text between them, a new constant wherever messages begin."""
        continuation = self.tokenizer.prefix_space_once
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
                groups[-1][0].extend(self.tokenizer.encode_text(text, continuation=continuation))
            begin(begins.inside + begins.after, exact=not begins.inside)
            groups[-1][0].append(token.id)
        return tuple((self._constant(tuple(ids), ids), count, exact) for ids, count, exact in groups)

    # -- message text that contains control tokens

    def _hostile(self, text: str) -> None:
        if isinstance(text, ImageText):
            self.image(text.chunk)
            return
        self.control_in_content = True
        place = f"messages[{(self._begins or self._late or [self._message])[-1]}]"
        found = [match.group() for match in self.tokenizer.control_pattern.finditer(text)]
        if self.control_tokens == "reject":
            raise RefusedError(place, "control_token", f"expected text without control tokens; got {found[0]!r}")
        if self.control_tokens == "parse":
            self.dynamic_template(text)
            return
        unsafe = [word for word in found if word in self.tokenizer.unsafe_controls]
        if unsafe:
            raise RefusedError(place, "control_token", f"this tokenizer cannot keep {unsafe[0]!r} as text")
        self.raw_content(text)


def _text_and_begins(stretch: list[str]) -> tuple[str, _Begins]:
    texts = [i for i, part in enumerate(stretch) if part != _MARK]
    if not texts:
        return "", _Begins(len(stretch), 0, 0) if stretch else _NONE
    before, after = texts[0], len(stretch) - 1 - texts[-1]
    inside = len(stretch) - len(texts) - before - after
    begins = _Begins(before, inside, after)
    return "".join(stretch[i] for i in texts), begins if sum(begins) else _NONE

"""A block of examples before it is encoded: which ids are known, which text is to be encoded, with what weight.

Renderers write in order through a `Plan`; `Plan.encode` encodes all text of the block in one or two calls and
assembles every example with numpy. Between two control tokens lies one *stretch* of text, encoded as a whole, which
is what a tokenizer does with the rendered prompt. A *cut* splits a stretch where a trained turn starts: the prompt's
text is encoded whole, and the turn's text as what follows it.

Template text is only collected until message text, a cut or the end comes. The same few template texts come again and
again, so each is taken apart once, and from then on is one look-up (`Compiled`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .assembly import CONTINUATION, START, Pieces, assemble
from .errors import RefusedError
from .images import ImageText
from .pieces import MessageText
from .rendered import ControlTokens, Refusal, RenderedBlock
from .template_text import MARK, NO_BEGINS, NOT_PLAIN, Compiled, PlainShape, compile_template
from .tokenizer import ControlToken, Tokenizer
from .types import ImageChunk
from .white_space import WHITE_SPACE

__all__ = ["Plan"]

_IMAGE_POSITION = -1
"""Stands for an image's positions until the block is assembled; no token has this id."""
_SHORT = 32
"""Text this short before a cut is taken for a header that comes again."""


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
        self._codes = self._pieces.codes
        self._conversation: list[int] = []
        self._turn: list[int] = []
        self._compiled: dict[str, Compiled] = {}
        self._shapes: dict[tuple[str, str, str, str, str, bool], PlainShape] = {}
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
        self._belong(-1, 0.0)
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
        if len(pieces) == 3:  # nearly every message: something of the template, a text, something of the template
            before, text, after = pieces
            self._template += before
            if text:
                self.content(text)
            self._template += after
            return
        template = True
        for piece in pieces:
            if template:
                self._template += piece
            elif piece:
                self.content(piece)
            template = not template

    def message(self, index: int, text: MessageText, weight: float) -> None:
        """One whole message: `begin_message`, header, `begin_body`, body, `end_body`, rest.

        A plain one (a text between two pieces of template text that came in this way before) is one look-up.
        """
        header, body, rest = text
        plain = len(header) == len(rest) == 1 and len(body) == 3 and body[1] and not self._search(body[1])
        if plain and not (self._begins or self._late or self._swallow or self._prefix_space or self._weight):
            key = (self._template, header[0], body[0], body[2], rest[0], weight == 0.0)
            shape = self._shapes.get(key)
            if shape is None:
                shape = self._shapes[key] = self._shape_of(*key)
            if shape.is_plain and not (shape.lead and self._open):
                self._write_plain(index, body[1], weight, shape)
                return
        self.begin_message(index)
        self.write(header)
        if weight:
            self.begin_body(weight)
            self.write(body)
            self.end_body()
        else:
            self.write(body)
        self.write(rest)

    def _write_plain(self, index: int, text: str, weight: float, shape: PlainShape) -> None:
        codes = self._codes
        if self._open:
            self._text(self._open, constant=False)
        self._cut_left = None
        if shape.before:
            codes.append(self._place + shape.before)
        if not self._cut_bad:
            self._marks[index] = len(codes)
        self._message = index
        self._place = place = self._pieces.place(index, 0.0)
        codes.append(place + shape.header)
        self._start = True
        self._template = shape.after
        if not weight:
            self._open = shape.tail + text
            return
        if shape.tail and not self.tokenizer.joins_cleanly(shape.tail, text):
            self._cut_bad = True
        texts = self._pieces.texts[START]
        place = self._pieces.place(index, weight)
        codes += (place + 2 * len(texts), place + shape.stop)
        texts.append(text)
        self._open = ""

    def _shape_of(self, template: str, header: str, before: str, after: str, rest: str, untrained: bool) -> PlainShape:
        """What the constants of a plain message are; not plain where they need more care than a look-up."""
        opening = self._compile(template + MARK + header + (before if untrained else ""))
        closing = self._compile(after)
        begins = [i for i, (_, count, exact) in enumerate(opening.constants) if count == 1 and exact]
        if not opening.is_simple or opening.swallow or len(begins) != 1:
            return NOT_PLAIN
        sources = [source for source, _, _ in opening.constants]
        lead = [self._text_constant(opening.lead)] if opening.lead else []
        before_it, of_header = self._joined(lead + sources[: begins[0]]), sources[begins[0] :]
        if untrained:
            return PlainShape(True, opening.lead, before_it, self._joined(of_header), opening.tail, 0, after + rest)
        if before or not closing.is_simple or closing.lead or closing.tail or closing.swallow:
            return NOT_PLAIN
        if opening.tail:
            of_header.append(self._text_constant(opening.tail))
        stop = self._joined([source for source, _, _ in closing.constants])
        return PlainShape(True, opening.lead, before_it, self._joined(of_header), opening.tail, stop, rest)

    def _joined(self, sources: list[int]) -> int:
        """Several constants as one; 0 for none."""
        ids = [token for source in sources for token in self._pieces.ids_of(source)]
        return self._constant(tuple(ids), ids) if ids else 0

    def _text_constant(self, text: str, kind: int = START) -> int:
        """Source number of a text that comes again and again."""
        source = self._constant_of.get((text, kind))
        if source is None:
            source = self._constant((text, kind), self.tokenizer.encode_text(text, continuation=kind == CONTINUATION))
        return source

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
        self._codes.append(self._place + self._constant(tuple(tokens), list(tokens)))
        # Text after sampled text continues it; after a control token it starts a stretch.
        self._start = bool(tokens) and tokens[-1] in self.tokenizer.control_ids
        self._swallow = False

    def image(self, chunk: ImageChunk) -> None:
        """An image, between two control tokens; its positions are never trained."""
        self._close_all()
        source = self._constant(chunk, [_IMAGE_POSITION] * chunk.length)
        self._images[source] = chunk
        self._codes.append(self._place + source)
        self._start, self._swallow = True, False

    def begin_message(self, index: int) -> None:
        """What follows belongs to message `index`; a stretch that is open stays with the message it began in."""
        self._template += MARK
        self._begins.append(index)

    def begin_body(self, weight: float) -> None:
        """What follows, up to `end_body`, is trained with `weight`, unless that is 0."""
        if weight:
            self.cut()
            self._belong(self._message, weight)

    def end_body(self) -> None:
        """Back to weight 0."""
        if self._weight:
            if self._template:
                self._close()
            if self._open:
                self.cut()
            self._belong(self._message, 0.0)

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
        start, here = self._last_start, len(self._codes)
        self._codes += self._pieces.untrained(self._codes[start:stop])
        self._marks = {m: mark - start + here for m, mark in self._last_marks.items() if m <= message}
        return True

    def end_example(self, conversation: int, turn: int) -> None:
        """Close the example; `turn` is its last trained message, -1 when it holds the whole conversation."""
        self._close_all()
        ends = self._pieces.example_ends
        self._last_start = ends[-1] if ends else 0
        self._last_marks = self._marks
        ends.append(len(self._codes))
        self._conversation.append(conversation)
        self._turn.append(turn)
        self._reset()

    def position(self) -> tuple[int, int, int]:
        """Where to `rewind` to if the conversation that starts now is refused half way."""
        return len(self._codes), len(self._pieces.example_ends), len(self.refusals)

    def rewind(self, position: tuple[int, int, int]) -> None:
        """Forget everything written since `position` except texts, which cost only their encoding."""
        count, examples, refusals = position
        pieces = self._pieces
        del self._codes[count:]
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
        chunks = [self._images[source] for source in self._pieces.sources().tolist() if source in self._images]
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
        if compiled.is_simple and not (self._swallow or self._late or self._prefix_space):
            self._close_simple(compiled)
            return
        lead, lead_begins, strip_lead, constants, tail, tail_begins, swallow, _ = compiled
        inside = 0
        if lead_begins is not NO_BEGINS:
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
        for source, begins, exact in constants:
            if begins:
                self._begin(begins, exact=exact)
            self._codes.append(self._place + source)
        self._open, self._start, self._swallow = tail, True, swallow
        if tail_begins is not NO_BEGINS:
            if tail_begins.before:
                self._begin(tail_begins.before, exact=not swallow)
            self._begin_late(tail_begins.inside + tail_begins.after)

    def _close_simple(self, compiled: Compiled) -> None:
        """`_close` where nothing but the open stretch and known ids are to be written: the usual case."""
        if self._open or compiled.lead:
            self._text(self._open + compiled.lead, constant=not self._open)
        self._cut_left = None  # right before a control token is a boundary anyway
        for source, begins, exact in compiled.constants:
            if begins:
                self._begin(begins, exact=exact)
            self._codes.append(self._place + source)
        self._open, self._start, self._swallow = compiled.tail, True, compiled.swallow

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
        begun = self._begins[:count]
        del self._begins[:count]
        if exact and not self._cut_bad:
            for message in begun:
                self._marks.setdefault(message, len(self._codes))
        self._belong(begun[-1], self._weight)

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
                source = self._text_constant(text, kind)
            else:
                texts = self._pieces.texts[kind]
                source = 2 * len(texts) + kind
                texts.append(text)
            self._codes.append(self._place + source)
            self._start = False
        self._open = ""
        if self._late:
            self._belong(self._late[-1], self._weight)
            self._late = []

    def _belong(self, message: int, weight: float) -> None:
        """Pieces from here on belong to `message` and have `weight`."""
        self._message, self._weight = message, weight
        self._place = self._pieces.place(message, weight)

    def _constant(self, key: object, ids: list[int]) -> int:
        source = self._constant_of.get(key)
        if source is None:
            source = self._constant_of[key] = self._pieces.constant(ids)
        return source

    def _at_sequence_start(self) -> bool:
        ends = self._pieces.example_ends
        return len(self._codes) == (ends[-1] if ends else 0)

    def _compile(self, template: str) -> Compiled:
        return compile_template(template, self.tokenizer, self._constant)

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

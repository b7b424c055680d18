"""A block of examples before it is encoded: which ids are known, which text is to be encoded, with what weight.

Renderers write pieces in order through a `Plan`; `Plan.encode` encodes all text of the block in one or two calls and
assembles every example with numpy. Between two control tokens lies one *stretch* of text, encoded as a whole, which
is what a tokenizer does with the rendered prompt. A `cut` splits a stretch where a trained turn starts: the prompt's
text is encoded whole, and the turn's text as what follows it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from .errors import RefusedError
from .rendered import ControlTokens, Refusal, RenderedBlock
from .tokenizer import WHITE_SPACE, ControlToken, Tokenizer

__all__ = ["Plan"]

_START, _CONTINUATION = 0, 1
_SHORT = 32  # text this short may equal a constant that a template wrote


class Plan:
    """Collects the pieces of many examples.

    Attributes:
        weight: loss weight of what is written next.
        message: message index of what is written next, -1 for none.
        control_in_content: whether content written since it was last reset contained a control token's text.
    """

    def __init__(self, tokenizer: Tokenizer, control_tokens: ControlTokens = "text") -> None:
        self.tokenizer = tokenizer
        self.control_tokens = control_tokens
        self.control_in_content = False
        self._search = tokenizer.control_pattern.search
        self.weight = 0.0
        self.message = -1
        self.counts: Counter[str] = Counter()
        self.refusals: list[Refusal] = []
        # Known id sequences ("constants"), one after another.
        self._const_ids: list[int] = []
        self._const_start: list[int] = []
        self._const_length: list[int] = []
        self._const_of: dict[object, int] = {}
        self._templates: dict[str, list[str | ControlToken]] = {}
        # Texts to encode: at the start of a stretch, or following other text.
        self._texts: tuple[list[str], list[str]] = ([], [])
        # Pieces: >= 0 text of its kind (start: 2 * index, continuation: 2 * index + 1), < 0 constant ~index.
        self._source: list[int] = []
        self._weights: list[float] = []
        self._messages: list[int] = []
        self._example_ends: list[int] = []
        self._conversation: list[int] = []
        self._turn: list[int] = []
        # The open stretch.
        self._pending = ""
        self._pending_is_constant = True
        self._stretch_start = True
        self._swallow = False
        self._held: int | None = None
        self._cut_left: str | None = None
        self._cut_swallow = False
        self._cut_bad = False
        self._joins: dict[tuple[str, str], bool] = {}
        # Where messages begin, as numbers of pieces: of this example, and of the last one, which starts at a piece.
        self._marks: dict[int, int] = {}
        self._last_marks: dict[int, int] = {}
        self._last_start = 0
        self._watched, self._watched_text = -1, 0

    # -- writing

    def template(self, text: str) -> None:
        """Template text: its control tokens are live. Meant for few distinct texts, which are cut once and kept."""
        parts = self._templates.get(text)
        if parts is None:
            parts = self._templates[text] = self.tokenizer.split(text)
        for part in parts:
            if isinstance(part, str):
                self._pending += part
            else:
                self.control(part)

    def content(self, text: str) -> None:
        """Message text: never a control token."""
        if text:
            if self._search(text):
                self.control_in_content = True
                if self.control_tokens != "text" or self.tokenizer.unsafe_controls:
                    self._hostile(text)
                    return
            self._pending += text
            self._pending_is_constant = False

    def raw_content(self, text: str) -> None:
        """Message text that has been looked through already; never a control token."""
        if text:
            self._pending += text
            self._pending_is_constant = False

    def _hostile(self, text: str) -> None:
        """Content with a control token in it, where that matters."""
        place = f"messages[{self.message}]" if self.message >= 0 else "messages"
        found = next(match.group() for match in self.tokenizer.control_pattern.finditer(text))
        if self.control_tokens == "reject":
            raise RefusedError(place, "control_token", f"expected text without control tokens; got {found!r}")
        if self.control_tokens == "parse":
            self.dynamic_template(text)
            return
        unsafe = [m.group() for m in self.tokenizer.control_pattern.finditer(text)]
        unsafe = [word for word in unsafe if word in self.tokenizer.unsafe_controls]
        if unsafe:
            raise RefusedError(place, "control_token", f"this tokenizer cannot keep {unsafe[0]!r} as text")
        self._pending += text
        self._pending_is_constant = False

    def dynamic_template(self, text: str) -> None:
        """Template text that is not worth keeping: cut at its control tokens each time."""
        for part in self.tokenizer.split(text):
            if isinstance(part, str):
                self._pending += part
                self._pending_is_constant = False
            else:
                self.control(part)

    def write(self, pieces: Sequence[str]) -> None:
        """Template text and message text by turns, as families write them (see `renderers.family`)."""
        template = True
        for piece in pieces:
            if piece:
                if template:
                    self.template(piece)
                else:
                    self.content(piece)
            template = not template

    def control(self, token: ControlToken) -> None:
        """One control token."""
        at_boundary = self._watched >= 0 and len(self._pending) == self._watched_text
        if token.lstrip:
            self._pending = self._pending.rstrip(WHITE_SPACE)
        self._flush()
        if self._watched >= 0:
            if at_boundary and not self._cut_bad:
                self._marks.setdefault(self._watched, len(self._source))
            self._watched = -1
        if self._cut_left is not None:
            # A cut right before a control token is a boundary anyway, unless the token swallows what is left of it.
            self._cut_bad |= token.lstrip and self._cut_left != self._cut_left.rstrip(WHITE_SPACE)
            self._cut_left = None
        index = self._const_of.get(token.text)
        if index is None:
            index = self._constant(token.text, [token.id])
        self._piece(~index)
        self._stretch_start = True
        self._swallow = token.rstrip

    def ids(self, tokens: Sequence[int]) -> None:
        """Ids that are already tokens, such as a sampled completion."""
        self._flush()
        key = tuple(tokens)
        index = self._const_of.get(key)
        if index is None:
            index = self._constant(key, list(tokens))
        self._piece(~index)
        # Text after sampled text continues it; after a control token it starts a stretch.
        self._stretch_start = bool(tokens) and tokens[-1] in self.tokenizer.control_ids
        self._swallow = False

    def cut(self) -> None:
        """A trained turn starts here: what is written so far of this stretch is encoded as the prompt encodes it."""
        left, swallow, start = self._pending, self._swallow, self._stretch_start
        self._flush()
        if left or swallow or not start:
            self._cut_left, self._cut_swallow = left, swallow and start
            # The left part may be swallowed white space only; what follows then still starts the stretch.
            self._stretch_start = start and not (left.lstrip(WHITE_SPACE) if swallow else left)
            self._swallow = False

    def begin_message(self, index: int) -> None:
        """What follows belongs to message `index`; a stretch that is open stays with the message it began in."""
        if self._pending and self._held is None:
            self._held = self.message
        self.message = index
        self._watched, self._watched_text = index, len(self._pending)

    def begin_body(self, weight: float) -> None:
        """What follows, up to `end_body`, is what the model says (or what is trained on, whoever says it)."""
        if weight:
            self.cut()
            self.weight = weight

    def end_body(self) -> None:
        """Back to weight 0."""
        if self.weight:
            if self._pending:
                self.cut()
            self.weight = 0.0

    def merged(self) -> bool:
        """Whether a cut since the last call fell where whole-text encoding has no boundary."""
        self._flush()
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
        start, here = self._last_start, len(self._source)
        self._source += self._source[start:stop]
        self._weights += [0.0] * (stop - start)
        self._messages += self._messages[start:stop]
        self._marks = {m: mark - start + here for m, mark in self._last_marks.items() if m <= message}
        return True

    def end_example(self, conversation: int, turn: int) -> None:
        """Close the example; `turn` is its last trained message, -1 when it holds the whole conversation."""
        self._flush()
        self._example_ends.append(len(self._source))
        self._conversation.append(conversation)
        self._turn.append(turn)
        self._last_start = self._example_ends[-2] if len(self._example_ends) > 1 else 0
        self._last_marks = self._marks
        self._reset()

    def position(self) -> tuple[int, int, int]:
        """Where to `rewind` to if the conversation that starts now is refused half way."""
        assert not self._pending
        return len(self._source), len(self._example_ends), len(self.refusals)

    def rewind(self, position: tuple[int, int, int]) -> None:
        """Forget everything written since `position` except texts, which cost only their encoding."""
        pieces, examples, refusals = position
        del self._source[pieces:], self._weights[pieces:], self._messages[pieces:]
        del self._example_ends[examples:], self._conversation[examples:], self._turn[examples:]
        del self.refusals[refusals:]
        self._pending = ""
        self._reset()

    def _reset(self) -> None:
        self._pending_is_constant = self._stretch_start = True
        self._swallow = self._cut_bad = False
        self._cut_left = self._held = None
        self.message, self.weight = -1, 0.0
        self._marks = {}
        self._watched = -1

    # -- pieces

    def _constant(self, key: object, ids: list[int]) -> int:
        index = len(self._const_start)
        self._const_start.append(len(self._const_ids))
        self._const_length.append(len(ids))
        self._const_ids += ids
        self._const_of[key] = index
        return index

    def _piece(self, source: int) -> None:
        self._source.append(source)
        self._weights.append(self.weight)
        if self._held is None:
            self._messages.append(self.message)
        else:
            self._messages.append(self._held)
            self._held = None

    def _flush(self) -> None:
        text = self._pending
        if not text:
            return
        if self._cut_left is not None:
            if not self._joins_cleanly(self._cut_left, text):
                self._cut_bad = True
            self._cut_left = None
        if self._swallow:
            text = text.lstrip(WHITE_SPACE)
            self._swallow = False
        kind = _START if self._stretch_start or not self.tokenizer.has_prefix_space else _CONTINUATION
        if kind == _START and self.tokenizer.prefix_space_once and not self._at_sequence_start():
            kind = _CONTINUATION
        if text:
            index = self._const_of.get((text, kind)) if len(text) < _SHORT or self._pending_is_constant else None
            if index is None and self._pending_is_constant:
                ids = self.tokenizer.encode_text(text, continuation=kind == _CONTINUATION)
                index = self._constant((text, kind), ids)
            if index is not None:
                self._piece(~index)
            else:
                texts = self._texts[kind]
                self._piece(2 * len(texts) + kind)
                texts.append(text)
            self._stretch_start = False
        self._pending = ""
        self._pending_is_constant = True

    def _at_sequence_start(self) -> bool:
        return len(self._source) == (self._example_ends[-1] if self._example_ends else 0)

    def _joins_cleanly(self, left: str, right: str) -> bool:
        """Whether whole-text encoding of `left + right` is the encoding of `left`, then of `right`.

        A boundary before a letter or digit depends on that character alone, so those are decided once by probes;
        anything else (white space above all) is encoded both ways.
        """
        first = right[0]
        if not first.isalnum() or len(left) > 64:
            return self._same_ids(left, right)
        key = (left, first)
        known = self._joins.get(key)
        if known is None:
            probes = (first, first + "a", first + " a", first + "\n", first + "1", first + "\u0301", first * 3)
            known = self._joins[key] = all(self._same_ids(left, probe) for probe in probes)
        return known or self._same_ids(left, right)

    def _same_ids(self, left: str, right: str) -> bool:
        encode = self.tokenizer.encode_text
        whole, left_kept = left + right, left
        if self._cut_swallow:
            whole, left_kept = whole.lstrip(WHITE_SPACE), left.lstrip(WHITE_SPACE)
        if not left_kept:
            return encode(whole) == encode(right)
        return encode(whole) == encode(left_kept) + encode(right, continuation=True)

    # -- encoding

    def encode(self) -> RenderedBlock:
        """Encode every text and assemble every example.

        Raises:
            ParityError: see `Tokenizer.encode_texts`.
        """
        pool, text_start, text_length = self._pool()
        source = np.asarray(self._source, np.int64)
        is_text = source >= 0
        const_start = np.asarray(self._const_start, np.int64)
        const_length = np.asarray(self._const_length, np.int64)
        start = np.empty(len(source), np.int64)
        length = np.empty(len(source), np.int64)
        texts, constants = source[is_text], ~source[~is_text]
        start[is_text], length[is_text] = text_start[texts], text_length[texts]
        start[~is_text], length[~is_text] = const_start[constants], const_length[constants]

        ends = np.cumsum(length)
        total = int(ends[-1]) if len(ends) else 0
        # Where in the pool each token of the result lies: a ramp per piece.
        gather = np.arange(total, dtype=np.int64) + np.repeat(start - (ends - length), length)
        piece_ends = np.asarray(self._example_ends, np.int64)
        offsets = np.zeros(len(piece_ends) + 1, np.int64)
        if len(piece_ends):
            offsets[1:] = np.concatenate(([0], ends))[piece_ends]
        run_starts, run_messages, run_offsets = self._runs(piece_ends, ends - length, length, offsets)
        return RenderedBlock(
            tokens=pool[gather],
            weights=np.repeat(np.asarray(self._weights, np.float32), length),
            offsets=offsets,
            run_starts=run_starts,
            run_messages=run_messages,
            run_offsets=run_offsets,
            conversation=np.asarray(self._conversation, np.int32),
            turn=np.asarray(self._turn, np.int16),
            refusals=list(self.refusals),
            counts=Counter(self.counts),
        )

    def _pool(self) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """All ids, and start and length by text number (start: 2 * index, continuation: 2 * index + 1)."""
        constants = np.asarray(self._const_ids, np.int32)
        arrays, base = [constants], len(constants)
        size = 2 * max(len(self._texts[0]), len(self._texts[1]))
        start, length = np.zeros(size, np.int64), np.zeros(size, np.int64)
        for kind, texts in enumerate(self._texts):
            if texts:
                ids, offsets = self.tokenizer.encode_texts(texts, continuation=kind == _CONTINUATION)
                start[kind : 2 * len(texts) : 2] = offsets[:-1] + base
                length[kind : 2 * len(texts) : 2] = np.diff(offsets)
                arrays.append(ids)
                base += len(ids)
        return np.concatenate(arrays), start, length

    def _runs(
        self,
        piece_ends: npt.NDArray[np.int64],
        token_starts: npt.NDArray[np.int64],
        lengths: npt.NDArray[np.int64],
        offsets: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int16], npt.NDArray[np.int64]]:
        """Runs of pieces of one message within one example."""
        messages = np.asarray(self._messages, np.int16)
        counts = np.diff(np.concatenate(([0], piece_ends)))
        example = np.repeat(np.arange(len(piece_ends)), counts)
        filled = lengths > 0
        messages, example, token_starts = messages[filled], example[filled], token_starts[filled]
        new = np.ones(len(messages), bool)
        new[1:] = (messages[1:] != messages[:-1]) | (example[1:] != example[:-1])
        run_offsets = np.zeros(len(piece_ends) + 1, np.int64)
        np.cumsum(np.bincount(example[new], minlength=len(piece_ends)), out=run_offsets[1:])
        starts = token_starts[new] - offsets[example[new]]
        return starts.astype(np.int32), messages[new], run_offsets

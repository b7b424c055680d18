"""One row as a person looks at it: every token with its bytes, text, role, weight and target.

The one view-model behind the terminal, the HTML page and JSON.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from renderers import InputError, Tokenizer

from .rows import ROLE_CODES, ImageRef, Row
from .runs import whole_runs
from .visible import token_text, visible

__all__ = ["RowView", "Target", "TokenView", "view_row"]

_ROLES = {code: role for role, code in ROLE_CODES.items()}


@dataclass(frozen=True, slots=True)
class Target:
    """What a position predicts: a token, its display text, and the weight of that prediction."""

    id: int
    text: str
    weight: float


@dataclass(slots=True)
class TokenView:
    """One token, or one image.

    Attributes:
        position: its place in the unshifted sequence; an image's first.
        id: None for an image.
        bytes: exactly what it stands for; empty for an image.
        text: for display; stray bytes as ⟨E4 BD⟩.
        offset: bytes of the sequence before it.
        control: a control token (an added token of the tokenizer).
        message: index of the message it belongs to; None for template text, or when not known.
        role: that message's; None with `message`.
        weight: of this token as a target, which is what its loss is multiplied by; None when nothing predicts it.
        targets: what its position predicts: the token after it, or several where the datum has several per position.
        inputs: further loss inputs at its position, by name.
        run: position of the first of the tokens that make up whole characters together; usually its own.
        run_text: on the first of such a run of several, the text they are together.
        length: positions; more than 1 only for an image.
    """

    position: int
    id: int | None
    bytes: bytes
    text: str
    offset: int
    control: bool = False
    message: int | None = None
    role: str | None = None
    weight: float | None = None
    targets: tuple[Target, ...] = ()
    inputs: dict[str, float] = field(default_factory=dict[str, float])
    run: int = -1
    run_text: str | None = None
    length: int = 1

    @property
    def trained(self) -> bool:
        return bool(self.weight)

    def to_json(self) -> dict[str, Any]:
        """JSON values; `bytes` in hexadecimal."""
        return {**asdict(self), "bytes": self.bytes.hex(), "trained": self.trained}


@dataclass(slots=True)
class RowView:
    """A row.

    Attributes:
        number: of the row in its split, or of the example among those of an input line.
        name: what to call it.
        place: `source:line` it came from, empty when not known.
        facts: what else is known of it, by name.
        tokens: in order. One more than the datum has positions when targets are the next tokens.
        shifted: whether every target is the token after its position; where not, `weight` is that of the position.
        weighted: whether the datum has weights; where not, every position counts 1.
    """

    number: int
    name: str
    place: str
    facts: dict[str, str]
    tokens: list[TokenView]
    shifted: bool
    weighted: bool

    @property
    def num_trained(self) -> int:
        return sum(token.trained for token in self.tokens)

    @property
    def num_tokens(self) -> int:
        return sum(token.length for token in self.tokens)

    @property
    def largest_weight(self) -> float:
        return max((abs(token.weight or 0.0) for token in self.tokens), default=0.0)

    def messages(self) -> Iterator[list[TokenView]]:
        """The tokens cut where the message changes."""
        part: list[TokenView] = []
        for token in self.tokens:
            if part and (token.message, token.role) != (part[-1].message, part[-1].role):
                yield part
                part = []
            part.append(token)
        if part:
            yield part

    def to_json(self) -> dict[str, Any]:
        """JSON values, tokens and all."""
        value = {name: getattr(self, name) for name in ("number", "name", "place", "facts", "shifted", "weighted")}
        counts = {"num_tokens": self.num_tokens, "num_trained": self.num_trained}
        return {**value, **counts, "tokens": [token.to_json() for token in self.tokens]}


def view_row(row: Row, tokenizer: Tokenizer, number: int = 0, name: str = "") -> RowView:
    """The view of a row.

    Args:
        row: as stored, shifted.
        tokenizer: the one it was rendered with.
        number, name: see `RowView`.

    Raises:
        InputError: a token or target that the tokenizer does not have.
    """
    shifted = _is_shifted(row)
    builder = _Builder(row, tokenizer, shifted)
    place = row.provenance
    where = f"{place.source}:{place.line}" if place.source and place.line >= 0 else place.source
    return RowView(number, name, where, _facts(row), builder.tokens(), shifted, row.weights is not None)


def _is_shifted(row: Row) -> bool:
    targets = row.target_tokens
    if targets is None or targets.ndim != 1 or not row.num_tokens:
        return False
    same = targets[:-1] == row.tokens[1:]
    for image in row.images:
        # Nothing predicts an image's positions; the datum says target 0 there.
        same[max(image.position - 1, 0) : image.position + image.length - 1] = True
    return bool(same.all())


def _facts(row: Row) -> dict[str, str]:
    place = row.provenance
    known = {
        "last trained message": None if place.turn < 0 else str(place.turn),
        "example": None if place.turn < 0 and not place.example else str(place.example),
        "id": place.conversation_id,
        "pair": place.pair,
        "side": place.side,
    }
    return {name: value for name, value in known.items() if value is not None}


class _Builder:
    """Columns of a row to token views."""

    def __init__(self, row: Row, tokenizer: Tokenizer, shifted: bool) -> None:
        self.row = row
        self.tokenizer = tokenizer
        self.shifted = shifted
        self.controls = tokenizer.control_ids
        self.ids: list[int] = row.tokens.tolist()
        if shifted and row.target_tokens is not None:
            self.ids.append(int(row.target_tokens[-1]))
        self.weights = self._weights()
        self.inputs = {
            name: [float(value) for value in values.tolist()]
            for name, values in row.losses.items()
            if values.shape == (row.num_tokens,)
        }
        self._texts: dict[int, str] = {}

    def _weights(self) -> list[list[float]]:
        """Weights of each position's targets, one list per position."""
        row, targets = self.row, self.row.target_tokens
        shape = (row.num_tokens,) if targets is None else targets.shape
        weights = np.ones(shape, np.float32) if row.weights is None else row.weights
        return weights.reshape(row.num_tokens, -1).tolist()

    def tokens(self) -> list[TokenView]:
        images = {image.position: image for image in self.row.images}
        messages, roles = self._segments()
        found: list[TokenView] = []
        position = offset = 0
        while position < len(self.ids):
            image = images.get(position)
            token = self._image(image) if image else self._token(position)
            token.offset, token.run = offset, position
            token.message, token.role = messages[position], roles[position]
            found.append(token)
            position += token.length
            offset += len(token.bytes)
        _mark_runs(found)
        return found

    def _segments(self) -> tuple[list[int | None], list[str | None]]:
        """Message and role of each position."""
        segments, size = self.row.segments, len(self.ids)
        if segments is None or not len(segments.start):
            return [None] * size, [None] * size
        lengths = np.diff(np.append(segments.start, max(size, int(segments.start[-1]))))
        messages = np.repeat(segments.message, lengths).tolist()
        roles = np.repeat(segments.role, lengths).tolist()
        # Positions before the first run belong to nothing known.
        before: list[Any] = [None] * int(segments.start[0])
        return (
            (before + [None if message < 0 else message for message in messages])[:size],
            (before + [_ROLES.get(role) for role in roles])[:size],
        )

    def _image(self, image: ImageRef) -> TokenView:
        text = f"⟨image {image.format} {image.location} ×{image.length}⟩"
        return TokenView(image.position, None, b"", text, 0, control=True, length=image.length)

    def _token(self, position: int) -> TokenView:
        token_id = self.ids[position]
        return TokenView(
            position,
            token_id,
            self._bytes(token_id, f"tokens[{position}]"),
            self._text(token_id, f"tokens[{position}]"),
            0,
            control=token_id in self.controls,
            weight=self._weight(position),
            targets=self._targets(position),
            inputs={name: values[position] for name, values in self.inputs.items() if position < len(values)},
        )

    def _weight(self, position: int) -> float | None:
        if self.shifted:
            return self.weights[position - 1][0] if position else None
        return float(sum(self.weights[position])) if position < len(self.weights) else None

    def _targets(self, position: int) -> tuple[Target, ...]:
        targets = self.row.target_tokens
        if targets is None or position >= self.row.num_tokens:
            return ()
        ids: list[int] = targets[position].reshape(-1).tolist()
        if self.shifted and position + 1 in {image.position for image in self.row.images}:
            return ()
        weights = self.weights[position]
        if len(weights) != len(ids):  # one weight for all of a position's targets
            weights = weights * len(ids)
        place = f"target_tokens[{position}]"
        return tuple(Target(i, self._text(i, place), w) for i, w in zip(ids, weights, strict=False))

    def _bytes(self, token_id: int, place: str) -> bytes:
        try:
            return self.tokenizer.token_bytes(token_id)
        except InputError as error:
            raise InputError(place, error.reason, error.detail) from None

    def _text(self, token_id: int, place: str) -> str:
        text = self._texts.get(token_id)
        if text is None:
            text = self._texts[token_id] = token_text(self._bytes(token_id, place))
        return text


def _mark_runs(tokens: Sequence[TokenView]) -> None:
    """Mark the tokens that are whole characters only together."""

    def may_join(left: int, right: int) -> bool:
        a, b = tokens[left], tokens[right]
        return (a.message, a.trained) == (b.message, b.trained)

    data = [None if token.control else token.bytes for token in tokens]
    for start, stop in whole_runs(data, may_join):
        run = tokens[start:stop]
        run[0].run_text = visible(b"".join(token.bytes for token in run).decode())
        for token in run:
            token.run = run[0].position

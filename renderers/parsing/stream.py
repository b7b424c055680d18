"""`StreamParser`: sampled tokens in, deltas out, at the end the message. Parsing at once is the same, run through."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from ..messages import Message
from ..tokenizer import Tokenizer
from .deltas import Delta, ResponseEnd
from .detokenize import detokenizer
from .draft import Draft
from .formats import ResponseFormat
from .harmony import HarmonyTurn
from .tagged import TaggedTurn
from .termination import ParseTermination
from .text import MarkScanner
from .values import parameter_types

__all__ = ["Endings", "StreamParser", "stream_response"]

_TAIL = 512  # a generation prompt is shorter


class Turn(Protocol):
    def text(self, text: str) -> None: ...
    def mark(self, mark: str, *, special: bool) -> None: ...
    def end(self, *, complete: bool) -> None: ...


@dataclass(frozen=True)
class Endings:
    """What ends a turn: the family's stop tokens, other end tokens of the model, and stops that are plain text."""

    stops: frozenset[int]
    eos: frozenset[int]
    texts: tuple[str, ...] = ()

    @classmethod
    def of(cls, tokenizer: Tokenizer, stops: Sequence[int] | Sequence[str]) -> Endings:
        """Of the stops, `eos_token` counts as the model's own end unless it is what the family writes first of all."""
        ids = [stop for stop in stops if isinstance(stop, int)]
        others = set(tokenizer.generation_stop_tokens) - set(ids)
        eos = tokenizer.control.get(tokenizer.eos_token or "")
        if eos is not None and eos.id not in ids[:1]:
            others.add(eos.id)
        texts = tuple(stop for stop in stops if isinstance(stop, str))
        return cls(frozenset(ids) - others, frozenset(others), texts)


class StreamParser:
    """Parses one sampled turn as it arrives, in any portions; the work for each token does not grow with the turn.

    Args:
        form: how the family writes a turn.
        tokenizer: the model's tokenizer.
        endings: what ends a turn.
        prompt_tokens: the prompt that was sampled from (its end decides whether reasoning is already open).
        tools: declarations, whose parameter types decide how bare values are read.

    Attributes:
        problem: what is structurally wrong, the first thing found; empty when nothing is.
        num_decoded: tokens that were looked up so far.
    """

    def __init__(
        self,
        form: ResponseFormat,
        tokenizer: Tokenizer,
        endings: Endings,
        prompt_tokens: Sequence[int] = (),
        tools: Sequence[Mapping[str, Any]] | None = None,
    ) -> None:
        self._control = {token.id: token for token in tokenizer.control.values()}
        self._endings = endings
        self._draft = Draft()
        self._draft.null_content = form.null_content
        types = parameter_types(tools)
        self._turn: Turn = HarmonyTurn(self._draft) if form.harmony else TaggedTurn(form, self._draft, types)
        self._scanner = MarkScanner([*(mark for mark in form.marks if mark not in tokenizer.control), *endings.texts])
        self._text = detokenizer(tokenizer)
        self._termination: ParseTermination | None = None
        self._closed = False
        tail = _prompt_tail(form, tokenizer, prompt_tokens)
        self._text.start(continuation=False)
        for token in tail:
            self._token(token)
        self._break()
        self._draft.forget()
        last = prompt_tokens[-1] if len(prompt_tokens) else None
        self._text.start(continuation=last is not None and last not in self._control)
        self._num_prompt = self._text.num_decoded

    @property
    def problem(self) -> str:
        return self._draft.problem

    @property
    def num_decoded(self) -> int:
        return self._text.num_decoded - self._num_prompt

    def feed(self, tokens: int | Iterable[int]) -> list[Delta]:
        """Take one token, or several, and tell what they add."""
        for token in tokens if isinstance(tokens, Iterable) else (tokens,):
            self._token(int(token))
        return self._draft.take()

    def close(self) -> list[Delta]:
        """No more tokens: tell what was held back in case more would come."""
        if not self._closed:
            self._closed = True
            if self._termination is None:
                self._end(ParseTermination.LENGTH)
        return self._draft.take()

    def finish(self) -> tuple[Message, ParseTermination]:
        """The message and how the turn ended; closes the parser when `close` was not called."""
        self.close()
        assert self._termination is not None
        if self._draft.problem and self._termination is not ParseTermination.LENGTH:
            return self._draft.message(), ParseTermination.MALFORMED
        return self._draft.message(), self._termination

    # -- tokens

    def _token(self, token: int) -> None:
        if self._termination is not None:
            self._draft.broken("expected nothing after the end of the turn; got more tokens")
            return
        control = self._control.get(token)
        if control is None and token not in self._endings.stops and token not in self._endings.eos:
            self._plain(self._text.feed(token))
            return
        self._break()
        if self._termination is not None:
            self._token(token)
        elif token in self._endings.stops:
            self._end(ParseTermination.STOP_SEQUENCE)
        elif token in self._endings.eos:
            self._end(ParseTermination.EOS)
        elif control is not None:
            self._turn.mark(control.text, special=control.special)
        self._text.start(continuation=False)

    def _plain(self, text: str) -> None:
        if not text:
            return
        for part, is_mark in self._scanner.feed(text):
            if is_mark and part in self._endings.texts:
                self._scanner.flush()
                self._end(ParseTermination.STOP_SEQUENCE)
                return
            if is_mark:
                self._turn.mark(part, special=False)
            else:
                self._turn.text(part)

    def _break(self) -> None:
        """The open stretch of text ends here."""
        self._plain(self._text.flush())
        held = self._scanner.flush()
        if held and self._termination is None:
            self._turn.text(held)

    def _end(self, termination: ParseTermination) -> None:
        if termination is ParseTermination.LENGTH:
            self._break()
        if self._termination is None:
            self._termination = termination
            self._turn.end(complete=termination is not ParseTermination.LENGTH)


def _prompt_tail(form: ResponseFormat, tokenizer: Tokenizer, prompt: Sequence[int]) -> list[int]:
    """The end of the prompt that already belongs to the turn: an open header, or a think block."""
    tail = [int(token) for token in prompt[-_TAIL:]]
    control = {token.id: token.text for token in tokenizer.control.values()}
    if form.harmony:
        starts = [i for i, token in enumerate(tail) if control.get(token) == "<|start|>"]
        return tail[starts[-1] + 1 :] if starts else []
    if form.think is None:
        return []
    first: int | None = None
    for i in range(len(tail) - 1, -1, -1):
        text = control.get(tail[i])
        if text in form.think:
            first = i
        elif text is not None:
            break
    return tail[first:] if first is not None else []


def stream_response(parser: StreamParser, tokens: Iterable[int]) -> Iterator[Delta]:
    """Every delta as its token arrives, and `ResponseEnd` last."""
    for token in tokens:
        yield from parser.feed(token)
    yield from parser.close()
    yield ResponseEnd(*parser.finish())

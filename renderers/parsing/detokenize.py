"""Ids back to text as they arrive: never half a character, and at the end just what decoding them at once gives.

A *stretch* is the text between two control tokens. Tokenizers that put a space in front of a stretch get it taken off
again, as the inverse of how `Tokenizer.encode_texts` writes one.
"""

from __future__ import annotations

import codecs
import json
import re
from abc import ABC, abstractmethod
from functools import lru_cache
from typing import Any

from ..errors import InputError
from ..tokenizer import Tokenizer

__all__ = ["Detokenizer", "detokenizer"]

UNKNOWN = "\ufffd"
_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>\Z")


class Detokenizer(ABC):
    """Text of one stretch at a time.

    Attributes:
        num_decoded: tokens looked up so far: one for each token fed.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.num_decoded = 0
        self._tokenizer = tokenizer

    @abstractmethod
    def start(self, *, continuation: bool) -> None:
        """Begin a stretch; `continuation` when it goes on from text of the prompt."""

    @abstractmethod
    def feed(self, token: int) -> str:
        """Text that is certain now: whole characters only. An id outside the vocabulary reads as U+FFFD."""

    @abstractmethod
    def flush(self) -> str:
        """The rest of the stretch, broken characters as U+FFFD."""


class _ByteLevel(Detokenizer):
    """Tokens are bytes; characters are completed by a UTF-8 decoder that keeps state."""

    def __init__(self, tokenizer: Tokenizer, table: dict[int, bytes]) -> None:
        super().__init__(tokenizer)
        self._table = table
        self._utf8 = codecs.getincrementaldecoder("utf-8")("replace")

    def start(self, *, continuation: bool) -> None:  # noqa: ARG002
        self._utf8.reset()

    def feed(self, token: int) -> str:
        self.num_decoded += 1
        data = self._table.get(token)
        if data is None:
            data = self._table[token] = self._bytes(token)
        return self._utf8.decode(data)

    def flush(self) -> str:
        return self._utf8.decode(b"", final=True)

    def _bytes(self, token: int) -> bytes:
        try:
            return self._tokenizer.token_bytes(token)
        except InputError:
            return UNKNOWN.encode()


class _SentencePiece(Detokenizer):
    """Tokens are text with a mark for the space; runs of byte tokens are characters only as a whole."""

    def __init__(self, tokenizer: Tokenizer, replaced: list[tuple[str, str]]) -> None:
        super().__init__(tokenizer)
        self._replaced = replaced
        self._run = bytearray()
        self._strip = False

    def start(self, *, continuation: bool) -> None:
        self._run.clear()
        self._strip = not continuation

    def feed(self, token: int) -> str:
        self.num_decoded += 1
        piece = _token_text(self._tokenizer, token)
        byte = _BYTE.match(piece)
        if byte:
            self._run.append(int(byte.group(1), 16))
            return ""
        for old, new in self._replaced:
            piece = piece.replace(old, new)
        return self._out(self._end_run() + piece)

    def flush(self) -> str:
        return self._out(self._end_run())

    def _end_run(self) -> str:
        if not self._run:
            return ""
        data, self._run = bytes(self._run), bytearray()
        try:
            return data.decode()
        except UnicodeDecodeError:
            return UNKNOWN * len(data)

    def _out(self, text: str) -> str:
        if self._strip and text:
            self._strip = False
            return text.removeprefix(" ")
        return text


class _Whole(Detokenizer):
    """Any other decoder: a stretch is decoded once, when it is over."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        super().__init__(tokenizer)
        self._tokens: list[int] = []

    def start(self, *, continuation: bool) -> None:  # noqa: ARG002
        self._tokens = []

    def feed(self, token: int) -> str:
        self.num_decoded += 1
        self._tokens.append(token)
        return ""

    def flush(self) -> str:
        known = [token for token in self._tokens if 0 <= token < self._tokenizer.vocab_size]
        self._tokens = []
        return self._tokenizer.decode(known) if known else ""


def detokenizer(tokenizer: Tokenizer) -> Detokenizer:
    """A fresh detokenizer of the kind that this tokenizer's decoder asks for."""
    kind, data = _kind(tokenizer)
    if kind == "bytes":
        return _ByteLevel(tokenizer, data)
    if kind == "pieces":
        return _SentencePiece(tokenizer, data)
    return _Whole(tokenizer)


@lru_cache(maxsize=8)
def _kind(tokenizer: Tokenizer) -> tuple[str, Any]:
    decoder = tokenizer.backend.decoder
    spec: dict[str, Any] = json.loads(decoder.__getstate__()) if decoder is not None else {}
    if spec.get("type") == "ByteLevel":
        return "bytes", {}
    if spec.get("type") == "Sequence":
        parts = spec["decoders"]
        types = {part["type"] for part in parts}
        plain = all(
            "String" in part["pattern"]
            if part["type"] == "Replace"
            else (part["content"], part["start"], part["stop"]) == (" ", 1, 0)
            if part["type"] == "Strip"
            else True
            for part in parts
        )
        if plain and types == {"Replace", "ByteFallback", "Fuse", "Strip"}:
            replaced = [(p["pattern"]["String"], p["content"]) for p in parts if p["type"] == "Replace"]
            return "pieces", replaced
    return "whole", None


def _token_text(tokenizer: Tokenizer, token: int) -> str:
    text = tokenizer.id_to_token(token) if token >= 0 else None
    return UNKNOWN if text is None else text

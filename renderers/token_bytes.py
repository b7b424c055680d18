"""Which bytes a token stands for: exact, token by token, for byte-level BPE, byte-fallback SentencePiece, added tokens.

`decode([id])` cannot say: it replaces what is not whole UTF-8, and decoders strip spaces around a text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

from .errors import InputError, UserError

__all__ = ["TokenBytes"]

_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenBytes:
    """Bytes of single tokens.

    Added tokens are their own text. A SentencePiece token that carries the space put before a text has it among its
    bytes: it is the token's, though not the text's.

    Args:
        spec: parsed tokenizer.json.
        id_to_token: the vocabulary's spelling of an id, None where there is none.

    Raises:
        UserError: a kind of decoder for which the bytes of single tokens do not make up the text.
    """

    def __init__(self, spec: Mapping[str, Any], id_to_token: Callable[[int], str | None]) -> None:
        self._id_to_token = id_to_token
        self._added: dict[int, bytes] = {
            token["id"]: token["content"].encode() for token in spec.get("added_tokens") or []
        }
        self._steps = [_step(part) for part in _parts(spec.get("decoder"))]

    def __call__(self, token_id: int) -> bytes:
        """The token's bytes.

        Raises:
            InputError: no such id.
        """
        added = self._added.get(token_id)
        if added is not None:
            return added
        token = self._id_to_token(token_id) if token_id >= 0 else None
        if token is None:
            raise InputError("token", "unknown_token", f"expected an id of this vocabulary; got {token_id}")
        value: str | bytes = token
        for step in self._steps:
            if isinstance(value, str):
                value = step(value)
        return value if isinstance(value, bytes) else value.encode()


def _parts(decoder: Mapping[str, Any] | None) -> list[Mapping[str, Any]]:
    if decoder is None:
        return []
    if decoder["type"] == "Sequence":
        return [part for inner in decoder["decoders"] for part in _parts(inner)]
    return [decoder]


def _step(part: Mapping[str, Any]) -> Callable[[str], str | bytes]:
    """One decoder as it acts on a single token: text on its way, bytes when it is settled."""
    kind = part["type"]
    if kind == "ByteLevel":
        return _byte_level
    if kind == "ByteFallback":
        return _byte_fallback
    if kind == "Replace" and "String" in part["pattern"]:
        old, new = part["pattern"]["String"], part["content"]
        return lambda token: token.replace(old, new)
    if kind == "Metaspace":
        mark = part["replacement"]
        return lambda token: token.replace(mark, " ")
    if kind in ("Fuse", "Strip"):
        # These act on the text as a whole: Strip takes away the space that was put in front of it.
        return lambda token: token
    raise UserError(
        "tokenizer.json: decoder: expected one of ByteFallback, ByteLevel, Fuse, Metaspace, Replace, Strip, whose "
        f"tokens have bytes of their own; got {kind}"
    )


def _byte_fallback(token: str) -> str | bytes:
    match = _FALLBACK.fullmatch(token)
    return bytes([int(match[1], 16)]) if match else token


def _byte_level(token: str) -> bytes:
    alphabet = _byte_alphabet()
    try:
        return bytes(alphabet[character] for character in token)
    except KeyError:
        # As the decoder does: a token with one character outside the alphabet is its own text.
        return token.encode()


@cache
def _byte_alphabet() -> dict[str, int]:
    """Character to byte: printable Latin-1 stands for itself, the other bytes follow from U+0100 on."""
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(0x100 + i): byte for i, byte in enumerate(others)}

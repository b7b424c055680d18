"""A tokenizer.json, taken apart without reading its vocabulary.

The vocabulary is nearly all of the file. What is asked here (added tokens, normalizer, pre-tokenizer, decoder) stands
in small fields around it, so the model is kept as the text it is: only the encoders need more, and read it themselves.
"""

from __future__ import annotations

import hashlib
import json
from functools import cached_property
from typing import Any

from .errors import UserError

__all__ = ["TokenizerFile"]

_WHITE_SPACE = " \t\r\n"
_OTHERS = frozenset(
    ("version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor", "decoder")
)


class TokenizerFile:
    """The text of a tokenizer.json.

    Attributes:
        text: the whole file.
        fields: every field but `model`, parsed.

    Raises:
        UserError: not a JSON object with a `model`.
    """

    def __init__(self, text: str, name: str = "") -> None:
        self.text = text
        try:
            self.fields, self._model = _split(text)
        except (ValueError, IndexError) as error:
            raise UserError(f"{name or 'tokenizer.json'}: expected the JSON of a tokenizer; {error}") from None

    @cached_property
    def sha256(self) -> str:
        """Of the file's bytes."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def with_fields(self, **changes: Any) -> str:
        """The file's text with other fields."""
        fields = json.dumps({**self.fields, **changes}, ensure_ascii=False)
        return f'{fields[:-1]}, "model": {self._model}}}'


def _split(text: str) -> tuple[dict[str, Any], str]:
    """The small fields, parsed, and the text of `model`."""
    decoder = json.JSONDecoder()
    fields: dict[str, Any] = {}
    model = ""
    position = _skip(text, 0)
    if text[position] != "{":
        raise ValueError(f"expected an object; got {text[position]!r}")
    position = _skip(text, position + 1)
    while text[position] != "}":
        key, position = decoder.raw_decode(text, position)
        position = _skip(text, _skip(text, position) + 1)  # the colon
        if key == "model" and fields.keys() >= _OTHERS:
            # Writers put the model last; whatever came after it would stay behind it.
            return fields, text[position : text.rindex("}")].rstrip(_WHITE_SPACE)
        value, end = decoder.raw_decode(text, position)
        if key == "model":
            model = text[position:end]
        else:
            fields[key] = value
        position = _skip(text, end)
        if text[position] == ",":
            position = _skip(text, position + 1)
    if not model:
        raise ValueError("expected a field `model`; got none")
    return fields, model


def _skip(text: str, position: int) -> int:
    while text[position] in _WHITE_SPACE:
        position += 1
    return position

"""The tokenizer of a base model, as SDK code expects it: transformers' own."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from renderers import MissingExtraError, OptionError

__all__ = ["load_tokenizer"]


@lru_cache(maxsize=16)
def load_tokenizer(place: str) -> Any:
    """`AutoTokenizer` of a folder or hub id.

    Raises:
        MissingExtraError: transformers is not installed.
        OptionError: there is no tokenizer.
    """
    try:
        from transformers import AutoTokenizer
    except ImportError:
        raise MissingExtraError("transformers", "train") from None
    try:
        return AutoTokenizer.from_pretrained(place)
    except (OSError, ValueError) as error:
        raise OptionError(f"base_model: expected a model with a tokenizer; got {place!r}: {error}") from error

"""Vectors: what each family must write, kept as JSON, so that it is tested without any model's files.

A vector file holds the control tokens of one model; they are added to a copy of the tiny fixture tokenizer, whose ids
the vectors are in. `make_vectors.py` writes the files from the models' own templates.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from renderers import Tokenizer

__all__ = ["FOLDER", "SMALL", "tiny_tokenizer"]

FOLDER = Path(__file__).parent / "vectors"
SMALL = Path(__file__).resolve().parents[2] / "fixtures" / "tiny-chat"


def tiny_tokenizer(tokens: list[dict[str, Any]], special: Mapping[str, str], template: str | None = None) -> Tokenizer:
    """The tiny tokenizer with these added tokens (`content`, `special`, `lstrip`, `rstrip`) in place of its own."""
    spec = json.loads((SMALL / "tokenizer.json").read_text(encoding="utf-8"))
    first = min(token["id"] for token in spec["added_tokens"])
    spec["added_tokens"] = [
        {"id": first + i, "single_word": False, "normalized": False, **token} for i, token in enumerate(tokens)
    ]
    own = {token["content"] for token in tokens}
    vocabulary = {word: i for word, i in spec["model"]["vocab"].items() if i < first and word not in own}
    spec["model"]["vocab"] = vocabulary
    return Tokenizer(json.dumps(spec), config=dict(special), chat_template=template, name="tiny")

"""Refusals before any work: shards that the model cannot be trained on, named on both sides."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from datasets_io import ShardReader
from renderers import Tokenizer, UserError

from .training_data import name_rows

__all__ = ["check_shards", "model_settings"]

_HASH_SHOWN = 12


def model_settings(model: str) -> dict[str, Any]:
    """The text part of a model folder's `config.json`; empty when `model` is no folder here."""
    path = Path(model) / "config.json"
    if not path.is_file():
        return {}
    settings = json.loads(path.read_text(encoding="utf-8"))
    return settings.get("text_config", settings)


def check_shards(reader: ShardReader, model: str, tokenizer: Tokenizer, *, takes_images: bool = False) -> None:
    """Refuse shards of another tokenizer, with images, or with rows longer than the model's context.

    Raises:
        UserError: names the shards and the model.
    """
    manifest = reader.manifest
    theirs, ours = manifest.run.tokenizer_sha256, tokenizer.fingerprint
    if theirs != ours:
        made = f" (made for {manifest.notes.model})" if manifest.notes.model else ""
        raise UserError(
            f"{reader.path}: expected shards of the tokenizer of {model}, sha256 {ours[:_HASH_SHOWN]}…; these are of "
            f"sha256 {theirs[:_HASH_SHOWN]}…{made}. Render the conversations with --model {model}"
        )
    if not takes_images and (row := _first_with_image(reader)) is not None:
        raise UserError(
            f"{reader.path}: expected rows of text, as {model} is trained here on text only; "
            f"{name_rows(reader, [row])} holds an image"
        )
    context = model_settings(model).get("max_position_embeddings")
    if context is not None and len(reader) and int(reader.lengths.max()) > context:
        row = int(reader.lengths.argmax())
        raise UserError(
            f"{reader.path}: expected rows of at most {context} tokens, the context of {model}; "
            f"{name_rows(reader, [row])} has {reader.lengths[row]}. Render with --max-length {context}"
        )


def _first_with_image(reader: ShardReader) -> int | None:
    start = 0
    for view in reader.batches():
        if view.layout.images:
            for i, images in enumerate(view.batch.column("images").to_pylist()):
                if images:
                    return start + i
        start += view.num_rows
    return None

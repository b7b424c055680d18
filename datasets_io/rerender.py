"""Rendering stored rows again from the inputs they came from, for `verify`."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from renderers import UserError

from .block_render import SPLITS, render_block, renderer_of
from .blocks import Block, iter_blocks
from .columns import BatchView
from .manifest import Manifest, explain_difference
from .rows import ROW_HASH_BYTES, Row
from .run_spec import run_spec_of
from .sources import Source, expand_inputs, input_fingerprint
from .spec import RenderSpec

__all__ = ["Rerenderer", "spec_of"]

_WHITESPACE = b" \t\r"


def spec_of(manifest: Manifest, model: str | None = None) -> RenderSpec:
    """The spec of a finished run; `model` where its tokenizer has moved."""
    run = manifest.run
    fields = {name: value for name, value in run.options.items() if name in RenderSpec.model_fields}
    return RenderSpec(
        model=model or manifest.notes.model,
        renderer=run.renderer.name,
        renderer_options=run.renderer.options,
        **run.renderer.settings,
        **fields,
    )


class Rerenderer:
    """Callable for `verify_shards`. Rows are found fastest when asked for in the order of the shards.

    Args:
        manifest: of the folder.
        model: folder or hub id, where it is not where the manifest says.

    Raises:
        UserError: the model cannot be loaded, or is not the one that the folder was made with.
    """

    def __init__(self, manifest: Manifest, model: str | None = None) -> None:
        self.spec = spec_of(manifest, model)
        self._dedup = bool(manifest.run.options.get("dedup"))
        self._refuse_other_model(manifest)
        self._inputs = {file.path: file for file in manifest.run.inputs}
        self._sources: dict[str, Source | None] = {}
        self._blocks: dict[str, Iterator[Block]] = {}
        self._block: dict[str, Block] = {}
        self.missing: dict[str, str] = {}
        """Inputs that are not at hand as they were, and why."""

    def __call__(self, row: Row) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None:
        """Tokens and weights, unshifted; None where the row's input is not at hand.

        Raises:
            UserError: the input has no such row any more, or it gives no such example.
        """
        place = row.provenance
        source = self._source(place.source)
        if source is None or place.row_hash is None:
            return None
        block = self._single_row(source, place.line, place.row_hash)
        result = render_block(block, self.spec)
        for split in SPLITS:
            view = BatchView(result.batches[split])
            for i in range(view.num_rows):
                again = view.row(i)
                if (again.provenance.side, again.provenance.example) == (place.side, place.example):
                    if again.images != row.images:
                        raise UserError(f"{place.source}:{place.line}: expected the images that are stored; got others")
                    return _unshifted(again)
        raise UserError(f"{place.source}:{place.line}: expected the example that is stored; got none")

    def _refuse_other_model(self, manifest: Manifest) -> None:
        now = run_spec_of(self.spec, renderer_of(self.spec), manifest.run.inputs, dedup=self._dedup)
        same_libraries = now.model_copy(update={"libraries": manifest.run.libraries})
        changes = explain_difference(manifest.run, same_libraries)
        if changes:
            raise UserError(f"{self.spec.model}: expected the model that these shards were made with; {changes[0]}")

    def _source(self, name: str) -> Source | None:
        """The input as it was, None (and a word in `missing`) where it is not at hand."""
        if name not in self._sources:
            self._sources[name] = None
            if not Path(name).is_file():
                self.missing[name] = "not there"
            elif (source := expand_inputs([name])[0]) and dict(input_fingerprint(source)) != _fingerprint(
                self._inputs.get(name)
            ):
                self.missing[name] = "changed since"
            else:
                self._sources[name] = source
        return self._sources[name]

    def _single_row(self, source: Source, line: int, row_hash: bytes) -> Block:
        """A block of the one row: looked for from where the last one was, then from the start."""
        current = self._block.get(source.name)
        found = None if current is None else _find(current, line, row_hash)
        for restart in (False, True):
            if found is not None:
                return found
            if restart or source.name not in self._blocks:
                self._blocks[source.name] = iter_blocks([source], self.spec.block_bytes, self.spec.max_row_bytes)
            for block in self._blocks[source.name]:
                self._block[source.name] = block
                found = _find(block, line, row_hash)
                if found is not None:
                    return found
        raise UserError(f"{source.name}:{line}: expected the row that is stored; got none with its hash")


def _find(block: Block, line: int, row_hash: bytes) -> Block | None:
    offset = block.first_offset
    for i, document in enumerate(block.data.split(b"\n")):
        here = block.first_line + i if block.lines is None else block.lines[i] if i < len(block.lines) else -1
        if here == line:
            raw = document.strip(_WHITESPACE)
            if hashlib.blake2b(raw, digest_size=ROW_HASH_BYTES).digest() == row_hash:
                start = offset if block.offsets is None else block.offsets[i]
                return Block(
                    0,
                    block.source,
                    line,
                    start,
                    document + b"\n",
                    block.kind,
                    None if block.lines is None else (line,),
                    None if block.offsets is None else (start,),
                )
        offset += len(document) + 1
    return None


def _fingerprint(file: Any) -> dict[str, Any]:
    return {} if file is None else file.model_dump()


def _unshifted(row: Row) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]]:
    assert row.target_tokens is not None
    assert row.weights is not None
    tokens = np.append(row.tokens, row.target_tokens[-1:]).astype(np.int32)
    return tokens, np.concatenate([np.zeros(1, np.float32), row.weights])

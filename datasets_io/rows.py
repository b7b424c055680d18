"""A shard's row in memory, and how it becomes a `Datum` and back. No Arrow here."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from renderers import Chunk, Datum, EncodedTextChunk, ImageChunk, InputError, ModelInput, TensorData

__all__ = [
    "NO_ROLE",
    "ROLE_CODES",
    "ROW_HASH_BYTES",
    "ImageRef",
    "Provenance",
    "Row",
    "Segments",
    "datum_to_row",
    "row_to_datum",
]

NO_ROLE = -1
"""Role (and message) of template text that belongs to no message."""
ROLE_CODES: dict[str, int] = {"system": 0, "developer": 1, "user": 2, "assistant": 3, "tool": 4}
"""Role codes as stored; part of the format, so spelled out and never renumbered."""
ROW_HASH_BYTES = 16


class Segments(NamedTuple):
    """Runs of one message's tokens in the unshifted sequence (num_tokens + 1 long); each ends where the next starts.

    start int32, message int16 (-1 template text), role int8 (`ROLE_CODES`, -1 template text); all (num_runs,).
    """

    start: npt.NDArray[np.int32]
    message: npt.NDArray[np.int16]
    role: npt.NDArray[np.int8]


class ImageRef(NamedTuple):
    """An image chunk by reference: its first position, how many positions, its format, and a path or content hash."""

    position: int
    length: int
    format: str
    location: str


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a row came from.

    Attributes:
        source: input file or dataset.
        line: line or row number in `source`, as its reader counts; -1 when unknown.
        turn: message index of the last trained turn; -1 for the whole conversation.
        example: number of this example among those of its conversation.
        conversation_id: the input row's own id.
        pair: what links the two halves of a preference row.
        side: which half this is.
        row_hash: 16 bytes over the input row.
    """

    source: str = ""
    line: int = -1
    turn: int = -1
    example: int = 0
    conversation_id: str | None = None
    pair: str | None = None
    side: str | None = None
    row_hash: bytes | None = None


@dataclass(slots=True)
class Row:
    """One example, shifted, as stored. Arrays of a row that was read from a shard are read-only views of the file.

    Attributes:
        tokens: int32 (n,), what the model reads; 0 at image positions.
        target_tokens: int32 (n,) or (n, k, …); None when the datum has none.
        weights: float32 (n,) or (n, k, …); None when the datum has none.
        losses: further loss inputs by name, float32 or int64, any shape.
        segments: None when not known.
        images: in order of position.
        provenance: where it came from.
    """

    tokens: npt.NDArray[np.int32]
    target_tokens: npt.NDArray[np.int32] | None
    weights: npt.NDArray[np.float32] | None
    losses: dict[str, npt.NDArray[Any]] = field(default_factory=dict[str, npt.NDArray[Any]])
    segments: Segments | None = None
    images: tuple[ImageRef, ...] = ()
    provenance: Provenance = Provenance()

    @property
    def num_tokens(self) -> int:
        return len(self.tokens)

    @property
    def num_trained(self) -> int:
        """Positions with any nonzero weight; all of them where the datum carries no weights."""
        if self.weights is None:
            return self.num_tokens
        return int(np.count_nonzero(self.weights.reshape(self.num_tokens, -1).any(axis=1)))


def datum_to_row(datum: Datum, provenance: Provenance | None = None, segments: Segments | None = None) -> Row:
    """A `Datum` as a row.

    Adjacent text chunks become one; integer weights become float32; image bytes stay behind, their sha256 is the
    reference where the chunk has no location.

    Raises:
        InputError: no positions; `target_tokens` or `weights` of another length than the model input; weights that
            are all 0 or not finite; a target token outside int32.
    """
    tokens, images = _flatten(datum.model_input)
    inputs = {name: tensor.to_numpy() for name, tensor in datum.loss_fn_inputs.items()}
    row = Row(
        tokens=tokens,
        target_tokens=_targets(inputs, len(tokens)),
        weights=_weights(inputs, len(tokens)),
        losses={name: inputs[name] for name in sorted(inputs) if name not in ("target_tokens", "weights")},
        segments=segments,
        images=images,
        provenance=provenance or Provenance(),
    )
    if not row.num_trained:
        raise InputError("loss_fn_inputs.weights", "no_trained_tokens", "expected a nonzero weight; got none")
    return row


def row_to_datum(row: Row) -> Datum:
    """The `Datum` of a row; text and float inputs without a copy, `target_tokens` widened to int64."""
    inputs: dict[str, TensorData] = {}
    if row.target_tokens is not None:
        inputs["target_tokens"] = TensorData(row.target_tokens, dtype="int64")
    if row.weights is not None:
        inputs["weights"] = TensorData(row.weights, dtype="float32")
    for name, array in row.losses.items():
        inputs[name] = TensorData(array)
    return Datum(ModelInput(_chunks(row.tokens, row.images)), inputs)


def _flatten(model_input: ModelInput) -> tuple[npt.NDArray[np.int32], tuple[ImageRef, ...]]:
    parts: list[npt.NDArray[np.int32]] = []
    images: list[ImageRef] = []
    position = 0
    for chunk in model_input.chunks:
        if isinstance(chunk, EncodedTextChunk):
            parts.append(chunk.to_numpy())
        else:
            images.append(ImageRef(position, chunk.length, chunk.format, chunk.reference))
            parts.append(np.zeros(chunk.length, np.int32))
        position += chunk.length
    if not position:
        raise InputError("model_input", "too_short", "expected at least 1 position; got none")
    return (parts[0] if len(parts) == 1 else np.concatenate(parts)), tuple(images)


def _chunks(tokens: npt.NDArray[np.int32], images: tuple[ImageRef, ...]) -> list[Chunk]:
    chunks: list[Chunk] = []
    start = 0
    for image in images:
        if image.position > start:
            chunks.append(EncodedTextChunk(tokens[start : image.position]))
        chunks.append(ImageChunk(b"", image.format, image.length, image.location))
        start = image.position + image.length
    if start < len(tokens):
        chunks.append(EncodedTextChunk(tokens[start:]))
    return chunks


def _targets(inputs: Mapping[str, npt.NDArray[Any]], length: int) -> npt.NDArray[np.int32] | None:
    array = _per_position(inputs, "target_tokens", length)
    if array is None:
        return None
    if array.dtype.kind != "i":
        raise InputError("loss_fn_inputs.target_tokens", "bad_dtype", f"expected int64; got {array.dtype}")
    limits = np.iinfo(np.int32)
    if array.size and (array.min() < limits.min or array.max() > limits.max):
        raise InputError("loss_fn_inputs.target_tokens", "out_of_range", "expected token ids within int32")
    return array.astype(np.int32)


def _weights(inputs: Mapping[str, npt.NDArray[Any]], length: int) -> npt.NDArray[np.float32] | None:
    array = _per_position(inputs, "weights", length)
    if array is None:
        return None
    if not np.isfinite(array).all():
        raise InputError("loss_fn_inputs.weights", "not_finite", "expected finite weights; got inf or nan")
    return array.astype(np.float32, copy=False)


def _per_position(inputs: Mapping[str, npt.NDArray[Any]], name: str, length: int) -> npt.NDArray[Any] | None:
    array = inputs.get(name)
    if array is not None and (not array.ndim or len(array) != length):
        raise InputError(
            f"loss_fn_inputs.{name}",
            "length_mismatch",
            f"expected {length} positions, as many as the model input; got shape {array.shape}",
        )
    return array

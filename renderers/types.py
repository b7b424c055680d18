"""Tinker's data types by Tinker's names, numpy inside: `Datum`, `ModelInput` and its chunks, `TensorData`.

One class per concept for memory, shards and wire; codecs live at the edges (`datasets_io.schema`, `trainer.protocol`).
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt

from .errors import InputError, MissingExtraError

__all__ = [
    "Chunk",
    "Datum",
    "EncodedTextChunk",
    "ImageChunk",
    "ModelInput",
    "TensorData",
]

TensorDtype = Literal["float32", "int64"]
_KINDS: dict[str, TensorDtype] = {"f": "float32", "i": "int64", "u": "int64", "b": "int64"}
# The dtype the protocol fixes for each loss input; anything else takes the dtype of its values.
_LOSS_INPUT_DTYPES: dict[str, TensorDtype] = {
    "target_tokens": "int64",
    "weights": "float32",
    "advantages": "float32",
    "logprobs": "float32",
    "clip_low_threshold": "float32",
    "clip_high_threshold": "float32",
    "sequence_ratio_mask": "float32",
}


class TensorData:
    """A dense tensor as Tinker spells it.

    Args:
        data: values, flat or nested; numpy arrays are taken without a copy when dtype and shape fit.
        dtype: `float32` or `int64`; taken from `data` when None.
        shape: taken from `data` when None.
    """

    __slots__ = ("_array", "dtype")

    def __init__(
        self,
        data: npt.ArrayLike,
        dtype: TensorDtype | None = None,
        shape: Sequence[int] | None = None,
    ) -> None:
        array = np.asarray(data)
        if dtype is None:
            if array.size == 0 and array.dtype.kind == "f" and not isinstance(data, np.ndarray):
                array = array.astype(np.float32)
            if array.dtype.kind not in _KINDS:
                raise InputError("data", "bad_dtype", f"expected numbers; got dtype {array.dtype}")
            dtype = _KINDS[array.dtype.kind]
        elif dtype not in ("float32", "int64"):
            raise InputError("dtype", "bad_dtype", f"expected float32 or int64; got {dtype!r}")
        self.dtype: TensorDtype = dtype
        array = array.astype(dtype, copy=False)
        if shape is not None and tuple(shape) != array.shape:
            array = array.reshape(tuple(shape))
        self._array = array

    @property
    def shape(self) -> list[int]:
        return list(self._array.shape)

    @property
    def data(self) -> list[int] | list[float]:
        """All values, flat, as Python numbers."""
        return self._array.ravel().tolist()

    def to_numpy(self) -> npt.NDArray[Any]:
        """The array itself (no copy): float32 or int64 of `shape`."""
        return self._array

    def tolist(self) -> list[Any]:
        return self._array.tolist()

    def to_torch(self) -> Any:
        """A torch tensor (copied when the array is read-only, as memory-mapped shards are)."""
        try:
            import torch
        except ImportError:
            raise MissingExtraError("torch", "train") from None
        array = self._array if self._array.flags.writeable else self._array.copy()
        return torch.from_numpy(array)

    @classmethod
    def from_numpy(cls, array: npt.NDArray[Any]) -> TensorData:
        return cls(array)

    @classmethod
    def from_torch(cls, tensor: Any) -> TensorData:
        tensor = tensor.detach().cpu()
        return cls(tensor.float().numpy() if tensor.is_floating_point() else tensor.numpy())

    def __len__(self) -> int:
        return len(self._array)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, TensorData):
            return NotImplemented
        same = np.array_equal(self._array, other._array, equal_nan=self.dtype == "float32")
        return same and self.dtype == other.dtype

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"TensorData(dtype={self.dtype!r}, shape={self.shape}, data={np.array2string(self._array, threshold=8)})"


class EncodedTextChunk:
    """Token ids. `tokens` may be any sequence of ints; kept as an int32 array."""

    __slots__ = ("_tokens",)
    type: Literal["encoded_text"] = "encoded_text"

    def __init__(self, tokens: Sequence[int] | npt.NDArray[Any]) -> None:
        self._tokens: npt.NDArray[np.int32] = np.asarray(tokens, dtype=np.int32)

    @property
    def tokens(self) -> list[int]:
        return self._tokens.tolist()

    @property
    def length(self) -> int:
        return len(self._tokens)

    def to_numpy(self) -> npt.NDArray[np.int32]:
        """int32 of shape (length,), no copy."""
        return self._tokens

    def __eq__(self, other: object) -> bool:
        return isinstance(other, EncodedTextChunk) and np.array_equal(self._tokens, other._tokens)

    __hash__ = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"EncodedTextChunk(tokens={np.array2string(self._tokens, threshold=8)})"


@dataclass(frozen=True)
class ImageChunk:
    """An image inside a prompt.

    Attributes:
        data: encoded bytes; empty when only `location` is known (an image stored by reference).
        format: `png` or `jpeg`.
        expected_tokens: how many positions the model gives it; needed wherever positions are counted.
        location: path or content hash that the bytes came from, or None.
    """

    data: bytes = field(repr=False)
    format: str
    expected_tokens: int | None = None
    location: str | None = None
    type: Literal["image"] = "image"

    @property
    def length(self) -> int:
        if self.expected_tokens is None:
            raise InputError("expected_tokens", "unknown_length", "expected this image's number of positions; got None")
        return self.expected_tokens

    @property
    def reference(self) -> str:
        """What names this image where its bytes are not kept: its location, else its content's hash."""
        return self.location or f"sha256:{hashlib.sha256(self.data).hexdigest()}"


Chunk = EncodedTextChunk | ImageChunk


@dataclass(eq=True)
class ModelInput:
    """What the model reads: text chunks and images in order."""

    chunks: list[Chunk]

    @classmethod
    def from_ints(cls, tokens: Sequence[int] | npt.NDArray[Any]) -> ModelInput:
        """Text only.

        >>> ModelInput.from_ints([1, 2, 3]).to_ints()
        [1, 2, 3]
        """
        return cls(chunks=[EncodedTextChunk(tokens=tokens)])

    @classmethod
    def empty(cls) -> ModelInput:
        return cls(chunks=[])

    @property
    def length(self) -> int:
        return sum(chunk.length for chunk in self.chunks)

    def to_numpy(self) -> npt.NDArray[np.int32]:
        """All tokens, int32 of shape (length,).

        Raises:
            InputError: when there is an image among the chunks.
        """
        arrays: list[npt.NDArray[np.int32]] = []
        for i, chunk in enumerate(self.chunks):
            if not isinstance(chunk, EncodedTextChunk):
                raise InputError(f"chunks[{i}]", "not_text", f"expected encoded_text; got {chunk.type}")
            arrays.append(chunk.to_numpy())
        if len(arrays) == 1:
            return arrays[0]
        return np.concatenate(arrays) if arrays else np.empty(0, np.int32)

    def to_ints(self) -> list[int]:
        """All tokens as Python ints; raises `InputError` when there is an image among the chunks."""
        return self.to_numpy().tolist()

    def append(self, chunk: Chunk) -> ModelInput:
        return ModelInput(chunks=[*self.chunks, chunk])

    def append_int(self, token: int) -> ModelInput:
        return self.append(EncodedTextChunk(tokens=[token]))


LossInput = TensorData | npt.NDArray[Any] | Sequence[int] | Sequence[float]


def _tensor(name: str, value: Any) -> TensorData:
    if isinstance(value, TensorData):
        return value
    if hasattr(value, "detach"):  # a torch tensor
        return TensorData.from_torch(value)
    if hasattr(value, "to_numpy"):  # the SDK's TensorData
        value = value.to_numpy()
    try:
        array = np.asarray(value)
    except ValueError:
        raise InputError(f"loss_fn_inputs.{name}", "ragged", "expected a rectangular array; got ragged lists") from None
    if array.dtype.kind not in _KINDS:
        raise InputError(f"loss_fn_inputs.{name}", "bad_dtype", f"expected numbers; got dtype {array.dtype}")
    return TensorData(array, dtype=_LOSS_INPUT_DTYPES.get(name))


@dataclass(eq=True)
class Datum:
    """One training unit: `model_input` and, position by position, what the loss needs.

    Attributes:
        model_input: n positions.
        loss_fn_inputs: by name; lists, numpy arrays and torch tensors become `TensorData`
            (`target_tokens` int64 (n,), `weights` float32 (n,), …).
    """

    model_input: ModelInput
    loss_fn_inputs: dict[str, TensorData]

    def __init__(self, model_input: ModelInput, loss_fn_inputs: Mapping[str, Any] | None = None) -> None:
        self.model_input = model_input
        self.loss_fn_inputs = {name: _tensor(name, value) for name, value in (loss_fn_inputs or {}).items()}

    def to_tinker(self) -> Any:
        """The same datum as the official SDK's `tinker.types.Datum`; needs the extra `remote`."""
        types = _tinker_types()
        chunks: list[Any] = []
        for chunk in self.model_input.chunks:
            if isinstance(chunk, EncodedTextChunk):
                chunks.append(types.EncodedTextChunk(tokens=chunk.tokens))
            else:
                chunks.append(
                    types.ImageChunk(data=chunk.data, format=chunk.format, expected_tokens=chunk.expected_tokens)
                )
        inputs = {
            name: types.TensorData(data=np.array(t.to_numpy()), dtype=t.dtype, shape=t.shape)
            for name, t in self.loss_fn_inputs.items()
        }
        return types.Datum(model_input=types.ModelInput(chunks=chunks), loss_fn_inputs=inputs)

    @classmethod
    def from_tinker(cls, datum: Any) -> Datum:
        """From the SDK's `Datum` (duck-typed: the SDK need not be importable)."""
        chunks: list[Chunk] = []
        for i, chunk in enumerate(cast("Iterable[Any]", datum.model_input.chunks)):
            if chunk.type == "encoded_text":
                chunks.append(EncodedTextChunk(tokens=chunk.tokens))
            elif chunk.type == "image":
                chunks.append(ImageChunk(data=chunk.data, format=chunk.format, expected_tokens=chunk.expected_tokens))
            else:
                raise InputError(
                    f"model_input.chunks[{i}].type",
                    "unknown_chunk",
                    f"expected encoded_text or image; got {chunk.type!r}",
                )
        return cls(ModelInput(chunks), datum.loss_fn_inputs)


def _tinker_types() -> Any:
    try:
        from tinker import types  # pyright: ignore[reportMissingImports]
    except ImportError:
        raise MissingExtraError("tinker", "remote") from None
    return types

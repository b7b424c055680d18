"""Arguments in our types or the SDK's become ours; duck-typed, so the SDK need not be installed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import fields
from typing import Any, TypeVar, cast

import numpy as np
import numpy.typing as npt

from renderers import Datum, InputError, ModelInput, OptionError
from trainer.protocol import AdamParams, SamplingParams

__all__ = ["to_adam_params", "to_data", "to_prompt", "to_sampling_params"]

Values = TypeVar("Values", AdamParams, SamplingParams)


def to_data(data: Any) -> list[Datum]:
    """Datums of ours, in order.

    Raises:
        InputError: `data` is no list of datums, or one has parts that we do not know.
    """
    if isinstance(data, Datum | str | bytes) or not isinstance(data, Iterable):
        raise InputError("data", "bad_type", f"expected a list of Datum; got {type(data).__name__}")
    return [_to_datum(i, item) for i, item in enumerate(cast("Iterable[Any]", data))]


def _to_datum(index: int, item: Any) -> Datum:
    if isinstance(item, Datum):
        return item
    if not hasattr(item, "model_input") or not hasattr(item, "loss_fn_inputs"):
        raise InputError(f"data[{index}]", "bad_type", f"expected a Datum; got {type(item).__name__}")
    try:
        return Datum.from_tinker(item)
    except InputError as error:
        raise InputError(f"data[{index}].{error.field}", error.reason, error.detail) from None


def to_prompt(prompt: Any) -> npt.NDArray[np.int32]:
    """Token ids of a `ModelInput` of text.

    Raises:
        InputError: it is none, or holds something else than text.
    """
    if isinstance(prompt, ModelInput):
        try:
            return prompt.to_numpy()
        except InputError as error:
            raise InputError(f"prompt.{error.field}", error.reason, error.detail) from None
    if not hasattr(prompt, "chunks"):
        raise InputError("prompt", "bad_type", f"expected a ModelInput; got {type(prompt).__name__}")
    pieces: list[npt.NDArray[np.int32]] = []
    for i, chunk in enumerate(cast("Sequence[Any]", prompt.chunks)):
        if chunk.type != "encoded_text":
            raise InputError(f"prompt.chunks[{i}]", "not_text", f"expected encoded_text; got {chunk.type}")
        pieces.append(np.asarray(chunk.tokens, np.int32))
    return np.concatenate(pieces) if pieces else np.empty(0, np.int32)


def to_adam_params(params: Any) -> AdamParams:
    """AdamW's hyperparameters; `OptionError` for another optimizer's."""
    return _values(params, AdamParams, "optim_params")


def to_sampling_params(params: Any) -> SamplingParams:
    """Sampling parameters; `OptionError` when a value is impossible."""
    return _values(params, SamplingParams, "sampling_params")


def _values(params: Any, kind: type[Values], name: str) -> Values:
    if isinstance(params, kind):
        return params
    if type(params).__name__ != kind.__name__:
        raise OptionError(f"{name}: expected {kind.__name__}; got {type(params).__name__}")
    # A class of the same name from an SDK, perhaps an older one with fewer fields.
    return kind(**{f.name: getattr(params, f.name) for f in fields(kind) if hasattr(params, f.name)})

"""A request at the engine's door: checked once, field by field, then trusted."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from renderers import Datum, InputError
from trainer.protocol import LossFnConfig

from .losses import Loss, find_loss

__all__ = ["CheckedDatum", "CheckedRequest", "Request", "check_request"]

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Request:
    """One forward or forward_backward of one adapter.

    Attributes:
        adapter_id: whose weights.
        data: the datums, in the caller's order.
        loss_fn: a registered loss.
        loss_fn_config: its keys, or None for all defaults.
        backward: whether gradients are accumulated.
        all_logprobs: score every position; False skips the head where the loss is silent (those logprobs are NaN).
    """

    adapter_id: str
    data: Sequence[Datum]
    loss_fn: str = "cross_entropy"
    loss_fn_config: LossFnConfig | None = None
    backward: bool = True
    all_logprobs: bool = True


@dataclass(frozen=True)
class CheckedDatum:
    """One datum as arrays.

    Attributes:
        tokens: int64 (N,).
        targets: int64 (N, K).
        inputs: float32 (N, K) by name.
        shape: `target_tokens` as it came: (N,) or (N, K).
    """

    tokens: npt.NDArray[np.int64]
    targets: npt.NDArray[np.int64]
    inputs: dict[str, npt.NDArray[np.float32]]
    shape: tuple[int, ...]


@dataclass(frozen=True)
class CheckedRequest:
    request: Request
    loss: Loss
    settings: dict[str, float]
    data: list[CheckedDatum] = field(repr=False)


def check_request(request: Request, vocab_size: int, context_length: int | None) -> CheckedRequest:
    """The request as arrays.

    Raises:
        OptionError: unknown loss, unknown or impossible config key.
        InputError: a datum lacks an input, has one too many, or one of the wrong length; the field is named.
    """
    loss = find_loss(request.loss_fn)
    settings = loss.settings(request.loss_fn_config)
    data = [_check_datum(f"data[{i}]", d, loss, vocab_size, context_length) for i, d in enumerate(request.data)]
    _check_optional(loss, data)
    if any("weights" in d.loss_fn_inputs for d in request.data) and "weights" not in (*loss.required, *loss.optional):
        logger.warning("loss_fn_inputs.weights is not read by %s", loss.name)
    return CheckedRequest(request, loss, settings, data)


def _check_optional(loss: Loss, data: Sequence[CheckedDatum]) -> None:
    """An optional input comes with every datum of a request or with none."""
    for name in loss.optional:
        bring = [name in d.inputs for d in data]
        if any(bring) and not all(bring):
            place = f"data[{bring.index(False)}].loss_fn_inputs.{name}"
            raise InputError(place, "missing_input", f"expected it, as data[{bring.index(True)}] brings it; got none")


def _check_datum(place: str, datum: Datum, loss: Loss, vocab_size: int, context_length: int | None) -> CheckedDatum:
    try:
        tokens = datum.model_input.to_numpy().astype(np.int64)
    except InputError as error:
        raise InputError(f"{place}.model_input.{error.field}", error.reason, error.detail) from None
    if len(tokens) == 0:
        raise InputError(f"{place}.model_input", "empty", "expected at least one token; got none")
    if context_length is not None and len(tokens) > context_length:
        detail = f"expected at most {context_length} tokens, the model's context; got {len(tokens)}"
        raise InputError(f"{place}.model_input", "too_long", detail)
    _check_ids(f"{place}.model_input", tokens, vocab_size)
    targets = _input(place, datum, "target_tokens", loss)
    if targets.dtype != np.int64:
        detail = f"expected int64; got {targets.dtype}"
        raise InputError(f"{place}.loss_fn_inputs.target_tokens", "bad_dtype", detail)
    _check_shape(place, "target_tokens", targets, len(tokens), loss)
    _check_ids(f"{place}.loss_fn_inputs.target_tokens", targets, vocab_size)
    known = {"target_tokens", *loss.required, *loss.optional}
    for name in datum.loss_fn_inputs:
        if name not in known | {"weights"}:
            detail = f"expected {', '.join(sorted(known))} for {loss.name}; got {name!r}"
            raise InputError(f"{place}.loss_fn_inputs.{name}", "unknown_input", detail)
    names = [*loss.required, *(name for name in loss.optional if name in datum.loss_fn_inputs)]
    inputs = {name: _float_input(place, datum, name, targets.shape, loss) for name in names}
    return CheckedDatum(tokens, targets.reshape(len(tokens), -1), inputs, targets.shape)


def _input(place: str, datum: Datum, name: str, loss: Loss) -> npt.NDArray[Any]:
    tensor = datum.loss_fn_inputs.get(name)
    if tensor is None:
        listed = ", ".join(sorted(datum.loss_fn_inputs)) or "no inputs"
        detail = f"{loss.name} expects it; got {listed}"
        raise InputError(f"{place}.loss_fn_inputs.{name}", "missing_input", detail)
    return tensor.to_numpy()


def _check_shape(place: str, name: str, targets: npt.NDArray[Any], length: int, loss: Loss) -> None:
    wide = loss.multi_target and targets.ndim == 2 and targets.shape[1] > 0
    if (targets.ndim != 1 and not wide) or len(targets) != length:
        expected = f"({length},) or ({length}, K)" if loss.multi_target else f"({length},)"
        detail = f"expected shape {expected}, as model_input has {length} tokens; got {targets.shape}"
        raise InputError(f"{place}.loss_fn_inputs.{name}", "wrong_length", detail)


def _check_ids(place: str, ids: npt.NDArray[np.int64], vocab_size: int) -> None:
    wrong = (ids < 0) | (ids >= vocab_size)
    if wrong.any():
        where = int(wrong.ravel().argmax())
        detail = f"expected token ids from 0 to {vocab_size - 1}; got {ids.ravel()[where]} at position {where}"
        raise InputError(place, "bad_token", detail)


def _float_input(place: str, datum: Datum, name: str, shape: tuple[int, ...], loss: Loss) -> npt.NDArray[np.float32]:
    values = _input(place, datum, name, loss)
    if values.shape != shape:
        detail = f"expected shape {shape}, as target_tokens; got {values.shape}"
        raise InputError(f"{place}.loss_fn_inputs.{name}", "wrong_length", detail)
    values = values.astype(np.float32, copy=False)
    if not np.isfinite(values).all():
        where = int((~np.isfinite(values)).ravel().argmax())
        detail = f"expected finite numbers; got {values.ravel()[where]} at position {where}"
        raise InputError(f"{place}.loss_fn_inputs.{name}", "not_finite", detail)
    return values.reshape(len(values), -1)

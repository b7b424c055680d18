"""A loss that the caller computes with torch from logprobs: forward, differentiate here, backward.

A cross entropy with weights -dC/dlp has the gradient of C, so the service needs no further loss. Both halves have
their places in the model's order before anything that is asked later.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any

import numpy as np

from renderers import Datum, InputError, MissingExtraError, TensorData, UserError
from trainer.protocol import ForwardBackwardOutput
from trainer.service import Service

__all__ = ["CustomLossFn", "run_custom_loss"]

# (the caller's datums, one logprobs tensor per datum shaped as its target_tokens) -> (scalar tensor, metrics)
CustomLossFn = Callable[[list[Any], list[Any]], tuple[Any, dict[str, float]]]


def run_custom_loss(
    service: Service, run_id: str, given: Sequence[Any], data: list[Datum], loss_fn: CustomLossFn
) -> Future[ForwardBackwardOutput]:
    """Start both halves.

    Args:
        given: the datums as the caller passed them, which the loss function sees.
        data: the same, as ours.

    Raises:
        MissingExtraError: torch is not installed.
        UserError: a datum is not what cross entropy takes.
    """
    try:
        import torch  # noqa: F401  # pyright: ignore[reportUnusedImport]
    except ImportError:
        raise MissingExtraError("torch", "train") from None
    if not callable(loss_fn):
        raise UserError(f"loss_fn: expected a function of (data, logprobs); got {type(loss_fn).__name__}")
    scored = [_forward_datum(i, datum) for i, datum in enumerate(data)]
    first, second = service.reserve(run_id, 2)
    try:
        forward = service.forward(run_id, scored, seq_id=first)
    except BaseException:
        service.give_up(run_id, first)
        service.give_up(run_id, second)
        raise
    ended: Future[ForwardBackwardOutput] = Future()
    ended.set_running_or_notify_cancel()

    def run() -> None:
        try:
            loss, metrics, weighted = _differentiate(list(given), scored, loss_fn, forward.future.result())
            backward = service.forward_backward(run_id, weighted, seq_id=second)
        except BaseException as error:
            try:
                service.give_up(run_id, second, error)
            finally:
                ended.set_exception(error)
            return
        try:
            ended.set_result(_with_loss(backward.future.result(), loss, metrics))
        except BaseException as error:
            ended.set_exception(error)

    # A thread of its own: the caller's function may take its time, and may ask the service for more.
    threading.Thread(target=run, name="datumloom-custom-loss", daemon=True).start()
    return ended


def _forward_datum(index: int, datum: Datum) -> Datum:
    """Target tokens, and weights where given; the loss function's other inputs stay with the caller."""
    targets = datum.loss_fn_inputs.get("target_tokens")
    if targets is None:
        field = f"data[{index}].loss_fn_inputs.target_tokens"
        raise InputError(field, "missing_input", "forward_backward_custom expects it; got none")
    weights = datum.loss_fn_inputs.get("weights")
    if weights is None:
        weights = TensorData(np.zeros(targets.shape, np.float32))
    return Datum(datum.model_input, {"target_tokens": targets, "weights": weights})


def _differentiate(
    given: list[Any], scored: list[Datum], loss_fn: CustomLossFn, output: ForwardBackwardOutput
) -> tuple[float, dict[str, float], list[Datum]]:
    """The loss, its metrics, and the datums whose weights are -dC/dlp."""
    import torch

    logprobs = [
        torch.from_numpy(np.array(out["logprobs"].to_numpy())).requires_grad_() for out in output.loss_fn_outputs
    ]
    loss, metrics = loss_fn(given, logprobs)
    if not isinstance(loss, torch.Tensor) or loss.numel() != 1 or not loss.requires_grad:
        raise UserError("loss_fn: expected a scalar tensor that depends on the logprobs, and a dict of metrics")
    loss.backward()
    weighted: list[Datum] = []
    for i, (datum, lp) in enumerate(zip(scored, logprobs, strict=True)):
        if lp.grad is None:
            raise UserError(f"loss_fn: expected a loss that depends on every datum's logprobs; data[{i}] has no part")
        inputs = {"target_tokens": datum.loss_fn_inputs["target_tokens"], "weights": TensorData((-lp.grad).numpy())}
        weighted.append(Datum(datum.model_input, inputs))
    return float(loss.detach()), dict(metrics), weighted


def _with_loss(output: ForwardBackwardOutput, loss: float, metrics: dict[str, float]) -> ForwardBackwardOutput:
    own = dict(output.metrics)
    surrogate = own.pop("loss:sum")
    return replace(output, metrics={**own, **metrics, "loss:sum": loss, "surrogate_loss:sum": surrogate})

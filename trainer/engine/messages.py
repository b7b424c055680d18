"""What processes of a group say to each other: a JSON header and plain arrays. Nothing here can carry code.

Layout of the bytes: header length (uint64), header, then each array's bytes, every part starting at a multiple of 8.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import numpy.typing as npt

from renderers import InternalError, TensorData
from trainer.protocol import ForwardBackwardOutput, LossFnOutput

from .losses import find_loss
from .requests import CheckedDatum, CheckedRequest, Request

__all__ = ["Message", "outputs_of", "requests_of", "tell_outputs", "tell_requests"]

_DTYPES = ("<f4", "<i8")
_ALIGN = 8

Array = npt.NDArray[Any]


@dataclass(frozen=True)
class Message:
    """A header of JSON values, and float32 or int64 arrays of any shape."""

    header: dict[str, Any] = field(default_factory=dict[str, Any])
    arrays: Sequence[Array] = ()

    def encode(self) -> npt.NDArray[np.uint8]:
        """One flat uint8 array."""
        arrays = [np.asarray(a, order="C") for a in self.arrays]
        listed = [(a.dtype.str, list(a.shape)) for a in arrays]
        header = json.dumps({"header": self.header, "arrays": listed}).encode()
        parts = [np.array([len(header)], "<u8").tobytes(), header, *(a.tobytes() for a in arrays)]
        return np.frombuffer(b"".join(p.ljust(_up(len(p)), b"\0") for p in parts), np.uint8)

    @classmethod
    def decode(cls, data: npt.NDArray[np.uint8]) -> Message:
        """`InternalError` when the bytes are not a message."""
        length = int(data[:_ALIGN].view("<u8")[0])
        envelope: dict[str, Any] = json.loads(data[_ALIGN : _ALIGN + length].tobytes())
        offset = _ALIGN + _up(length)
        arrays: list[Array] = []
        for dtype, shape in envelope["arrays"]:
            if dtype not in _DTYPES:
                raise InternalError(f"message: expected arrays of {', '.join(_DTYPES)}; got {dtype!r}")
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            arrays.append(data[offset : offset + size].view(dtype).reshape(shape))
            offset += _up(size)
        if offset != len(data):
            raise InternalError(f"message: expected {offset} bytes; got {len(data)}")
        return cls(envelope["header"], arrays)


def _up(size: int) -> int:
    return -(-size // _ALIGN) * _ALIGN


def tell_requests(requests: Sequence[CheckedRequest], header: dict[str, Any]) -> Message:
    """Checked requests, with `header` beside them."""
    listed: list[dict[str, Any]] = []
    arrays: list[Array] = []
    for checked in requests:
        request = checked.request
        names = [sorted(d.inputs) for d in checked.data]
        listed.append(
            {
                "adapter_id": request.adapter_id,
                "loss_fn": checked.loss.name,
                "settings": checked.settings,
                "backward": request.backward,
                "all_logprobs": request.all_logprobs,
                "data": [[list(d.shape), own] for d, own in zip(checked.data, names, strict=True)],
            }
        )
        for datum, own in zip(checked.data, names, strict=True):
            arrays += [datum.tokens, datum.targets, *(datum.inputs[name] for name in own)]
    return Message({**header, "requests": listed}, arrays)


def requests_of(message: Message) -> list[CheckedRequest]:
    """The other way; the sender has checked them."""
    arrays = iter(message.arrays)
    found: list[CheckedRequest] = []
    for told in message.header["requests"]:
        request = Request(
            told["adapter_id"], (), told["loss_fn"], told["settings"], told["backward"], told["all_logprobs"]
        )
        data: list[CheckedDatum] = []
        for shape, names in told["data"]:
            tokens, targets = next(arrays), next(arrays)
            data.append(CheckedDatum(tokens, targets, {name: next(arrays) for name in names}, tuple(shape)))
        found.append(CheckedRequest(request, find_loss(told["loss_fn"]), told["settings"], data))
    return found


def tell_outputs(outputs: Sequence[ForwardBackwardOutput]) -> Message:
    """Results, one per request."""
    counts = [len(output.loss_fn_outputs) for output in outputs]
    arrays = [record["logprobs"].to_numpy() for output in outputs for record in output.loss_fn_outputs]
    return Message({"counts": counts, "metrics": [output.metrics for output in outputs]}, arrays)


def outputs_of(message: Message) -> list[ForwardBackwardOutput]:
    """The other way."""
    arrays = iter(message.arrays)
    found: list[ForwardBackwardOutput] = []
    for count, metrics in zip(message.header["counts"], message.header["metrics"], strict=True):
        records: list[LossFnOutput] = [{"logprobs": TensorData(next(arrays))} for _ in range(count)]
        found.append(ForwardBackwardOutput("ArrayRecord", records, cast("dict[str, float]", metrics)))
    return found

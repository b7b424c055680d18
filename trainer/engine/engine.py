"""The engine: adapters on one frozen base, `forward`, `forward_backward`, `optim_step`.

    check -> plan passes -> for each pass: pack, trunk, head and loss in one sweep, backward -> collect

Losses are sums; gradients add up in each adapter's own buffer until its `optim_step`. Requests of several adapters can
share a pass (`forward_backward_many`); each adapter's rows, loss and gradient stay its own.

One thread at a time: the engine belongs to whoever owns the device.
"""

from __future__ import annotations

import logging
from collections.abc import Generator, Sequence
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
from torch import Tensor

from renderers import Datum, InputError, OptionError, TensorData
from trainer.protocol import (
    AdamParams,
    ForwardBackwardOutput,
    LoraConfig,
    LossFnConfig,
    LossFnOutput,
    OptimStepResponse,
)

from .adapters import Adapter
from .base_model import BaseModel
from .host_memory import keep_freed_memory
from .lora import AdapterWeights
from .memory import MemoryPlan
from .optimizer import adamw_step
from .packing import by_adapter, pack, plan_passes
from .passes import Pass
from .requests import CheckedRequest, Request, check_request

__all__ = ["Engine"]

logger = logging.getLogger(__name__)


class Engine:
    """Many adapters on one frozen base.

    Args:
        base: the frozen model.
        tokens_per_pass: most tokens in one pass (a longer datum still runs, alone); None takes the device's default.
        memory_bytes: budget for activations; None takes a share of the device's. Too little for a pass means that
            layers are computed again in backward, and that passes get smaller.
    """

    def __init__(self, base: BaseModel, *, tokens_per_pass: int | None = None, memory_bytes: int | None = None) -> None:
        if tokens_per_pass is not None and tokens_per_pass < 1:
            raise OptionError(f"tokens_per_pass: expected at least 1; got {tokens_per_pass}")
        if base.device.type == "cpu":
            keep_freed_memory()
        self.base = base
        self.adapters: dict[str, Adapter] = {}
        self._tokens_per_pass = tokens_per_pass
        self._memory_bytes = memory_bytes
        self._created = 0

    # ---- adapters

    def create_adapter(self, config: LoraConfig, adapter_id: str | None = None) -> str:
        """A new adapter (A random from the config's seed, B zero); gives its id.

        Raises:
            OptionError: the id is taken, or the model has nothing that the config trains.
        """
        if adapter_id is None:
            adapter_id = f"adapter-{self._created}"
        if adapter_id in self.adapters:
            raise OptionError(f"adapter_id: expected one that is free; {adapter_id!r} exists")
        self.adapters[adapter_id] = Adapter(config, self.base.projections, self.base.device, self.base.dtype)
        self._created += 1
        return adapter_id

    def adapter(self, adapter_id: str) -> Adapter:
        """The adapter; `OptionError` when there is none of that id."""
        if adapter_id not in self.adapters:
            raise OptionError(f"adapter_id: expected one of {', '.join(self.adapters) or 'none'}; got {adapter_id!r}")
        return self.adapters[adapter_id]

    def remove_adapter(self, adapter_id: str) -> None:
        self.adapter(adapter_id)
        del self.adapters[adapter_id]

    def snapshot(self, adapter_id: str) -> AdapterWeights:
        """The adapter's weights as they are now, for sampling; later steps never touch them."""
        return self.adapter(adapter_id).snapshot()

    def state_dict(self, adapter_id: str, *, optimizer: bool = True) -> dict[str, Tensor]:
        """See `Adapter.state_dict`."""
        return self.adapter(adapter_id).state_dict(optimizer=optimizer)

    def load_state(self, adapter_id: str, state: dict[str, Tensor], *, optimizer: bool = True) -> None:
        """See `Adapter.load_state`."""
        self.adapter(adapter_id).load_state(state, optimizer=optimizer)

    def close(self) -> None:
        """Let go of every adapter."""
        self.adapters.clear()

    def clear_gradients(self, adapter_id: str) -> None:
        """Forget what was accumulated since the last step."""
        adapter = self.adapter(adapter_id)
        adapter.grads.zero_()
        adapter.pending = 0

    # ---- passes

    def check(self, request: Request) -> CheckedRequest:
        """Everything a caller can get wrong, before any work; raises the `UserError` family."""
        self.adapter(request.adapter_id)
        return check_request(request, self.base.vocab_size, self.base.context_length)

    def forward(
        self,
        adapter_id: str,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        loss_fn_config: LossFnConfig | None = None,
    ) -> ForwardBackwardOutput:
        """Logprobs and the true loss; nothing is accumulated.

        Raises:
            UserError: unknown loss, missing input, unknown config key, wrong length; the field is named.
        """
        return self.run([Request(adapter_id, data, loss_fn, loss_fn_config, backward=False)])[0]

    def forward_backward(
        self,
        adapter_id: str,
        data: Sequence[Datum],
        loss_fn: str = "cross_entropy",
        loss_fn_config: LossFnConfig | None = None,
    ) -> ForwardBackwardOutput:
        """The same numbers as `forward`, and gradients accumulated until `optim_step`.

        Raises:
            UserError: as `forward`.
        """
        return self.run([Request(adapter_id, data, loss_fn, loss_fn_config)])[0]

    def forward_backward_many(self, requests: Sequence[Request]) -> list[ForwardBackwardOutput]:
        """Several requests, of one or several adapters, in shared passes; each result is the same as alone."""
        return self.run(requests)

    def backward_with(
        self, adapter_id: str, data: Sequence[Datum], grads: Sequence[npt.NDArray[np.float32]]
    ) -> ForwardBackwardOutput:
        """Backward of a loss that the caller computed from `forward`'s logprobs.

        A cross entropy whose weights are -d loss / d logprobs has exactly that gradient, so no further loss is needed.

        Args:
            data: the datums that `forward` scored; their `weights` are replaced.
            grads: per datum, d loss / d logprobs, shaped as its `target_tokens`.
        """
        if len(grads) != len(data):
            raise InputError("grads", "wrong_length", f"expected one array per datum, {len(data)}; got {len(grads)}")
        weighted: list[Datum] = []
        for i, (datum, grad) in enumerate(zip(data, grads, strict=True)):
            if "target_tokens" not in datum.loss_fn_inputs:
                field = f"data[{i}].loss_fn_inputs.target_tokens"
                raise InputError(field, "missing_input", "backward_with expects it; got none")
            targets = datum.loss_fn_inputs["target_tokens"]
            weights = TensorData(-np.asarray(grad, dtype=np.float32))
            weighted.append(Datum(datum.model_input, {"target_tokens": targets, "weights": weights}))
        return self.forward_backward(adapter_id, weighted)

    def optim_step(self, adapter_id: str, params: AdamParams) -> OptimStepResponse:
        """One AdamW step of this adapter from what it has accumulated; see `adamw_step`."""
        return OptimStepResponse(adamw_step(self.adapter(adapter_id), params))

    def run(self, requests: Sequence[Request]) -> list[ForwardBackwardOutput]:
        """Any mixture of forward and forward_backward requests; every request is checked before the first pass."""
        return self.run_checked([self.check(request) for request in requests])

    def run_checked(self, checked: Sequence[CheckedRequest]) -> list[ForwardBackwardOutput]:
        """`run` after the door."""
        with self._all_or_nothing(checked):
            outputs = self._passes(checked, self._memory_plan())
        self._note_backward(checked)
        return outputs

    def _memory_plan(self) -> MemoryPlan:
        return MemoryPlan.of(self.base, self._tokens_per_pass, self._memory_bytes)

    def _passes(self, checked: Sequence[CheckedRequest], plan: MemoryPlan) -> list[ForwardBackwardOutput]:
        collected = [_Collected(request) for request in checked]
        weights = [self._weights(request.request) for request in checked]
        for items in plan_passes(checked, by_adapter(checked), plan.tokens):
            batch = pack(checked, items, self.base.device)
            done = Pass(self.base, checked, batch, weights, plan.checkpoint_layers(len(batch.tokens))).run()
            for rows in batch.rows:
                collected[rows.request].add(rows.datums, done.logprobs, done.losses[rows.request])
        return [c.output() for c in collected]

    def _note_backward(self, checked: Sequence[CheckedRequest]) -> None:
        for request in checked:
            if request.request.backward:
                self.adapters[request.request.adapter_id].pending += 1

    def _weights(self, request: Request) -> AdapterWeights:
        adapter = self.adapters[request.adapter_id]
        return adapter.trainable() if request.backward else adapter.frozen()

    @contextmanager
    def _all_or_nothing(self, requests: Sequence[CheckedRequest]) -> Generator[None]:
        """A pass that fails (out of memory) leaves every gradient as it was before the call."""
        ids = {r.request.adapter_id for r in requests if r.request.backward}
        before = {i: self.adapters[i].grads.clone() if self.adapters[i].pending else None for i in ids}
        try:
            yield
        except BaseException:
            for adapter_id, grads in before.items():
                buffer = self.adapters[adapter_id].grads
                buffer.zero_() if grads is None else buffer.copy_(grads)
            raise


class _Collected:
    """One request's results, put together over passes in the caller's order."""

    def __init__(self, request: CheckedRequest) -> None:
        self.request = request
        self.logprobs: list[npt.NDArray[np.float32] | None] = [None] * len(request.data)
        self.loss = 0.0

    def add(self, datums: Sequence[tuple[int, int, int]], logprobs: npt.NDArray[np.float32], loss: float) -> None:
        self.loss += loss
        for datum, start, stop in datums:
            self.logprobs[datum] = self._place(datum, logprobs[start:stop])

    def _place(self, datum: int, values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        """Scored rows (n, widest K) of one datum, in the shape of its targets; NaN where nothing was scored."""
        checked = self.request.data[datum]
        values = values[:, : checked.targets.shape[1]]
        if len(values) < len(checked.tokens):
            silent = self.request.loss.silent_at_zero
            assert silent is not None
            full = np.full(checked.targets.shape, np.nan, dtype=np.float32)
            full[(checked.inputs[silent] != 0).any(axis=1)] = values
            values = full
        return np.ascontiguousarray(values).reshape(checked.shape)

    def output(self) -> ForwardBackwardOutput:
        outputs: list[LossFnOutput] = []
        for logprobs in self.logprobs:
            assert logprobs is not None
            outputs.append({"logprobs": TensorData(logprobs)})
        num_tokens = sum(len(d.tokens) for d in self.request.data)
        metrics = {"loss:sum": self.loss, "num_tokens:sum": float(num_tokens)}
        silent = self.request.loss.silent_at_zero
        if silent is not None:
            counted = sum(int((d.inputs[silent] != 0).any(axis=1).sum()) for d in self.request.data)
            metrics["num_loss_tokens:sum"] = float(counted)
        return ForwardBackwardOutput("ArrayRecord", outputs, metrics)

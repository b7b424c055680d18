"""An engine that is a group of processes: the leader's calls run on all of them, each with its share of the rows.

Every rank holds every adapter, and the whole base or a shard of it. Row k of a call belongs to rank k modulo size; the
leader puts the results together, so a caller sees what one process gives. Gradients stay where they arose until
`optim_step` sums them: one all-reduce of one flat buffer per step.

    leader:    check -> tell -> own share -> collect -> verdict -> merge
    follower:  hear         -> own share -> report  -> verdict
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from renderers import UserError
from trainer.protocol import AdamParams, ForwardBackwardOutput, LoraConfig, OptimStepResponse

from .base_model import BaseModel
from .engine import Engine
from .memory import MemoryPlan
from .messages import Message, outputs_of, tell_outputs, tell_requests
from .packing import by_adapter, plan_passes
from .parallel import LostRankError, RankError, World
from .requests import CheckedRequest, Request
from .sharding import ShardedDecoder, idle_pass
from .shares import merge, share_of

__all__ = ["GroupEngine"]

# How far ranks' norms may differ: they add up the same bits, unless they hold different adapters.
_DRIFT = 1e-5


class GroupEngine(Engine):
    """The engine on every rank of a group; the leader's methods are called, the others follow in `serve_requests`.

    Args:
        base: this rank's; sharded on all ranks or on none.
        world: the group.
        key: names the engine among the group's engines.
        tokens_per_pass, memory_bytes: see `Engine`; the leader's decide.
    """

    def __init__(
        self,
        base: BaseModel,
        world: World,
        *,
        key: str = "engine",
        tokens_per_pass: int | None = None,
        memory_bytes: int | None = None,
    ) -> None:
        super().__init__(base, tokens_per_pass=tokens_per_pass, memory_bytes=memory_bytes)
        self.world = world
        self.key = key
        self._root = base.decoder.root if isinstance(base.decoder, ShardedDecoder) else None
        if self._root is not None and world.rank == 0:
            self._root.announce = self._announce

    def _tell(self, op: str, arrays: Sequence[Any] = (), **header: Any) -> None:
        if self.world.rank == 0:
            self.world.tell(Message({"op": op, "engine": self.key, **header}, arrays))

    # ---- adapters

    def create_adapter(self, config: LoraConfig, adapter_id: str | None = None) -> str:
        with self.world.lock:
            adapter_id = super().create_adapter(config, adapter_id)
            config = replace(config, seed=self.adapters[adapter_id].seed)
            self._tell("create_adapter", adapter_id=adapter_id, lora=asdict(config))
            try:
                self.world.agree()
            except RankError:
                self.remove_adapter(adapter_id)
                raise
        return adapter_id

    def remove_adapter(self, adapter_id: str) -> None:
        with self.world.lock:
            super().remove_adapter(adapter_id)
            self._tell("remove_adapter", adapter_id=adapter_id)

    def load_state(self, adapter_id: str, state: dict[str, Tensor], *, optimizer: bool = True) -> None:
        with self.world.lock:
            super().load_state(adapter_id, state, optimizer=optimizer)
            names = sorted(state)
            arrays = [state[name].detach().cpu().numpy() for name in names]
            self._tell("load_state", arrays, adapter_id=adapter_id, names=names, optimizer=optimizer)
            self._agree_or_end()

    def clear_gradients(self, adapter_id: str) -> None:
        with self.world.lock:
            super().clear_gradients(adapter_id)
            self._tell("clear_gradients", adapter_id=adapter_id)

    def close(self) -> None:
        """Let go of every adapter, and of the engine on every rank."""
        super().close()
        with self.world.lock, contextlib.suppress(LostRankError):
            self._tell("close")

    def _agree_or_end(self, error: BaseException | None = None, report: Message | None = None) -> list[Message]:
        """Where one rank's failure would leave the ranks with different adapters, the group ends."""
        try:
            return self.world.agree(report, error)
        except BaseException as fault:
            raise self.world.lose(f"the ranks may hold different adapters: {fault}") from fault

    # ---- passes

    def run(self, requests: Sequence[Request]) -> list[ForwardBackwardOutput]:
        """See `Engine.run`.

        Raises:
            RankError: a rank failed (out of memory); nothing was accumulated on any.
            LostRankError: a rank is gone; the group has ended.
        """
        checked = [self.check(request) for request in requests]
        with self.world.lock:
            tokens = self._memory_plan().tokens
            if self.world.rank == 0:
                self.world.tell(tell_requests(checked, {"op": "run", "engine": self.key, "tokens": tokens}))
            return self.run_share(checked, tokens)

    def run_share(self, checked: Sequence[CheckedRequest], tokens: int) -> list[ForwardBackwardOutput]:
        """This rank's share; on the leader everyone's results, in the caller's order, elsewhere one's own.

        Args:
            checked: the whole requests.
            tokens: per pass, for all ranks.
        """
        share = share_of(checked, self.world.rank, self.world.size)
        plan = replace(self._memory_plan(), tokens=tokens)
        outputs: list[ForwardBackwardOutput] = []
        error: Exception | None = None
        with self._all_or_nothing(share):
            try:
                outputs = self._passes(share, plan) if self._root is None else self._in_step(checked, plan)
            except Exception as caught:
                error = caught
            if error is not None and self._root is not None:
                # Another rank may wait for this one's layers: only the end of the group frees it.
                raise self.world.blame(error) from error
            reports = self.world.agree(tell_outputs(outputs), error)
        self._note_backward(checked)
        if self.world.rank != 0:
            return outputs
        return merge(checked, [outputs, *(outputs_of(report) for report in reports[1:])])

    def _in_step(self, checked: Sequence[CheckedRequest], plan: MemoryPlan) -> list[ForwardBackwardOutput]:
        """Passes on a sharded base: equally many on every rank, with backward on all of them or on none."""
        assert self._root is not None
        announce, self._root.announce = self._root.announce, None
        found: dict[int, ForwardBackwardOutput] = {}
        shares = [share_of(checked, rank, self.world.size) for rank in range(self.world.size)]
        try:
            for backward in (False, True):
                alike = [i for i, request in enumerate(checked) if request.request.backward is backward]
                counts = [_num_passes([share[i] for i in alike], plan.tokens) for share in shares]
                own = [shares[self.world.rank][i] for i in alike]
                found.update(zip(alike, self._passes(own, plan), strict=True))
                for _ in range(counts[self.world.rank], max(counts)):
                    idle_pass(self.base, backward=backward)
        finally:
            self._root.announce = announce
        return [found[i] for i in range(len(checked))]

    def _announce(self) -> None:
        """A pass of the leader alone (sampling): the others lend their layers."""
        self.world.tell(Message({"op": "accompany", "engine": self.key}))

    # ---- the step

    def optim_step(self, adapter_id: str, params: AdamParams) -> OptimStepResponse:
        """See `Engine.optim_step`.

        Raises:
            LostRankError: a rank is gone or holds another adapter; the group has ended.
        """
        adapter = self.adapter(adapter_id)
        with self.world.lock:
            self._tell("optim_step", adapter_id=adapter_id, params=asdict(params))
            error: Exception | None = None
            refused: UserError | None = None
            metrics: dict[str, float] = {}
            try:
                self.world.all_reduce(adapter.grads)
                metrics = super().optim_step(adapter_id, params).metrics or {}
            except UserError as caught:  # gradients that are not finite: so they are on every rank
                refused = caught
            except Exception as caught:
                error = caught
            norms = [metrics.get(name, math.nan) for name in ("grad_norm", "update_norm")]
            reports = self._agree_or_end(error, Message({"norms": norms}))
            for rank, report in enumerate(reports):
                if not all(_close(*pair) for pair in zip(norms, report.header["norms"], strict=True)):
                    raise self.world.lose(
                        f"rank {rank}: expected the leader's gradient and update norms {norms}; got "
                        f"{report.header['norms']}: the ranks hold different adapters"
                    )
        if refused is not None:
            raise refused
        return OptimStepResponse(metrics)


def _close(left: float, right: float) -> bool:
    return (math.isnan(left) and math.isnan(right)) or math.isclose(left, right, rel_tol=_DRIFT, abs_tol=1e-30)


def _num_passes(checked: Sequence[CheckedRequest], tokens: int) -> int:
    return len(plan_passes(checked, by_adapter(checked), tokens))

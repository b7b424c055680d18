"""Who waits, who is in memory, and who goes back to waiting when memory runs out.

    waiting --admit--> prefilling --prefilled--> ready --start--> running --retire--> gone
       ^___________________________ make_room _______________________|

Memory is given to the oldest request first. When the pool is full, kept prompts go first, then the youngest resident:
it gives everything back and later prefills its prompt together with what it has drawn, so it continues where it was.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

from torch import Tensor

from renderers import InternalError
from trainer.engine import BaseModel

from .kv_pool import Context, KvPool
from .prefix_cache import PrefixCache
from .request import Job, Request, Row
from .stats import SamplerStats

__all__ = ["Residents", "rope_boundary"]

# Room beyond the prompt that a sample gets at once; more comes piece by piece.
_RESERVE = 256
_LEAST_GROWTH = 64


def rope_boundary(config: Any) -> int | None:
    """The longest sequence that a `longrope` model reads with its short table; None for every other model.

    A sample that grows beyond it is prefilled again, as transformers' `generate` does.
    """
    parameters: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    if parameters.get("rope_type") != "longrope":
        return None
    return int(parameters.get("original_max_position_embeddings") or config.max_position_embeddings)


class Residents:
    """The queues and the memory behind them.

    Args:
        base: gives the pool its shapes.
        cache_tokens: the pool's size.
        prefix_tokens: most tokens of kept prompts; None is half the pool.
        stats: counts to keep up.
    """

    def __init__(self, base: BaseModel, cache_tokens: int, prefix_tokens: int | None, stats: SamplerStats) -> None:
        assert base.decoder is not None
        self.pool = KvPool(base.decoder, cache_tokens, base.dtype, base.device)
        self.boundary = rope_boundary(base.config)
        budget = self.pool.capacity // 2 if prefix_tokens is None else prefix_tokens
        self.cache = PrefixCache(self.pool, budget, self.boundary)
        self.stats = stats
        self.waiting: deque[Job] = deque()
        self.prefilling: list[Job] = []
        self.ready: deque[Job] = deque()
        self.running: list[Row] = []
        self._scored: list[Job] = []
        self._hold = False

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.prefilling or self.ready or self.running)

    # ---- in

    def admit(self, max_batch: int, fail: Callable[[Request, BaseException], None]) -> None:
        """Moves jobs from waiting to prefilling while rows and memory are there, in order."""
        if self._hold and self.running:  # someone has just been sent back: let the others get on first
            return
        self._hold = False
        while self.waiting and self._taken() < max_batch:
            job = self.waiting[0]
            if self._place(job):
                self.prefilling.append(self.waiting.popleft())
            elif self.running or self.prefilling or self.ready:
                return
            else:
                need = f"{len(job.tokens)} tokens in an empty pool of {self.pool.capacity}"
                fail(job.request, InternalError(f"sampler: expected room for {need}; got none"))

    def _taken(self) -> int:
        return len(self.running) + sum(len(job.rows) for job in (*self.prefilling, *self.ready))

    def _place(self, job: Job) -> bool:
        """Gives the job a context with room for what is not in the pool yet."""
        snapshot = job.request.snapshot
        context = Context(self.pool) if job.scores_prompt else self.cache.find(snapshot, job.tokens)
        hit = context.length
        new = len(job.tokens) - hit
        tail = min(job.rows[0].remaining, _RESERVE) if len(job.rows) == 1 else 0
        while (own := self.pool.allocate(new + tail, at_least=new + min(tail, 1))) is None:
            if not self.cache.evict():
                context.release()
                # What was found may itself have been in the way; nothing is kept any more, so this ends.
                return hit > 0 and self._place(job)
        context.own = own
        job.context = context
        self.stats.cache_hit_tokens += hit
        if not job.resumed:
            job.request.cache_hit_tokens = hit
        return True

    def prefilled(self, job: Job) -> None:
        """The job's last token is in its context, and its logits are known."""
        assert job.context is not None
        self.prefilling.remove(job)
        self.cache.add(job.request.snapshot, job.tokens, job.context)
        if job.request.limit == 0:
            job.context.release()
            self._scored.append(job)
            return
        if len(job.rows) == 1:  # the only sample goes on in the prompt's own extent
            job.rows[0].context, job.context = job.context, None
        else:
            job.context.seal()
        self.ready.append(job)

    def scored(self) -> list[Job]:
        """Jobs that only wanted their prompt scored; gives each once."""
        done, self._scored = self._scored, []
        return done

    def start(self, max_batch: int) -> tuple[list[Row], list[Tensor]]:
        """Moves samples from ready to running; gives them with the logits of their first token."""
        rows: list[Row] = []
        logits: list[Tensor] = []
        while self.ready and len(self.running) < max_batch:
            job = self.ready[0]
            assert job.logits is not None
            row = job.rows.pop(0)
            if row.context is None:
                assert job.context is not None
                row.context = job.context.fork()
            rows.append(row)
            logits.append(job.logits)
            self.running.append(row)
            if not job.rows:
                self.ready.popleft()
                self._empty(job)
        return rows, logits

    # ---- on

    def make_room(self) -> list[Row]:
        """Running rows that have room for their next token; others have gone back to waiting."""
        for row in sorted(self.running, key=lambda r: r.order):
            if row.context is not None and row.context.length == self.boundary:
                self._send_back(row)
            while row.context is not None and row.context.room == 0:
                wanted = min(row.remaining, max(_LEAST_GROWTH, row.context.own_length))
                if row.context.grow(wanted) or self.cache.evict():
                    continue
                self._preempt_youngest()
        return list(self.running)

    def _preempt_youngest(self) -> None:
        """Sends the youngest resident back to waiting."""
        youngest = max([*self.running, *self.prefilling, *self.ready], key=lambda resident: resident.order)
        self.stats.preempted += 1
        self._hold = True
        if isinstance(youngest, Row):
            self._send_back(youngest)
            return
        youngest.resumed = youngest in self.ready
        (self.ready if youngest.resumed else self.prefilling).remove(youngest)
        self._empty(youngest)
        youngest.logits = None
        self.waiting.appendleft(youngest)

    def _send_back(self, row: Row) -> None:
        """The row will be prefilled again, with what it has drawn."""
        self.running.remove(row)
        self._leave(row)
        self.waiting.appendleft(Job(row.request, row.so_far(), [row], resumed=True))

    # ---- out

    def retire(self, row: Row) -> None:
        """The sample is complete: its memory goes, except for what is kept for later prompts."""
        assert row.context is not None
        if row.request.num_samples == 1:
            self.cache.add(row.request.snapshot, row.so_far(), row.context)
        self.running.remove(row)
        self._leave(row)
        self._hold = False

    def drop(self, request: Request) -> None:
        """Everything of this request goes."""
        for row in [r for r in self.running if r.request is request]:
            self.running.remove(row)
            self._leave(row)
        for queue in (self.waiting, self.prefilling, self.ready):
            for job in [j for j in queue if j.request is request]:
                queue.remove(job)
                self._empty(job)
        self._hold = False

    def drop_cancelled(self) -> None:
        held = [*self.running, *self.waiting, *self.prefilling, *self.ready]
        for request in {id(r.request): r.request for r in held if r.request.future.cancelled()}.values():
            self.drop(request)

    def _leave(self, row: Row) -> None:
        context = row.context
        assert context is not None
        if context.own is not None and context.own.refs > 1:
            self.pool.shrink(context.own, context.own_length)
        context.release()
        row.context = None

    def _empty(self, job: Job) -> None:
        """Gives back what the job holds itself, or its rows that have not started."""
        if job.context is not None:
            job.context.release()
            job.context = None
        for row in job.rows:
            if row.context is not None:
                self._leave(row)

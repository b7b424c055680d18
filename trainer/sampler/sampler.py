"""The sampler: requests for token ids in, samples out, many at a time.

    sampler = Sampler(base, max_batch=32)
    future = sampler.submit(prompt, SamplingParams(max_tokens=64, seed=0), num_samples=4, adapter=snapshot)
    sampler.run_until_idle()
    response = future.result()

One `step` is one round of the algorithm: admit requests while there is memory, prefill a bounded number of their
tokens, start the samples whose prompt is ready, then decode one token for every running sample. Rows come and go at
every step; what a row gets depends on its own request alone.

`submit` and a future's `cancel` may be called from any thread; `step` from one thread at a time.
"""

from __future__ import annotations

import itertools
import logging
import math
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, InvalidStateError
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from renderers import InternalError, OptionError
from trainer.engine import BaseModel, keep_freed_memory
from trainer.protocol import SampledSequence, SampleResponse, SamplingParams

from .draw import draw
from .forward import Chunk, DecodeRow, Forward
from .kv_pool import PAGE
from .prompt_scores import score_prompt, topk_of
from .request import Job, OnToken, Request, Row, check_count, check_prompt, check_stop, unscored
from .residents import Residents
from .snapshot import AdapterSnapshot
from .stats import SamplerStats
from .stops import Decode, StopRule

__all__ = ["Sampler"]

logger = logging.getLogger(__name__)

_Item = TypeVar("_Item", Job, Row, "_Place")
_PREFILL_TOKENS = {"cuda": 8192}
_CACHE_TOKENS = 65_536


@dataclass(frozen=True)
class _Place:
    """A running row and its line in a batch of logits."""

    row: Row
    index: int

    @property
    def request(self) -> Request:
        return self.row.request


class Sampler:
    """Continuous batching on one base.

    Args:
        base: a base that runs on the generic decoder.
        max_batch: most samples decoded at once.
        cache_tokens: tokens whose keys and values fit in memory, running samples and kept prompts together.
        prefix_tokens: most tokens of finished prompts kept for requests that begin the same; None keeps up to half.
        prefill_tokens: most prompt tokens per step, and per pass of one prompt.
        decode: ids to text, for stop strings.
        end_of_sequence: what `stop=None` stops at; None asks the model's configuration.
        prepack: a second copy of the base in the layout that decode on a CPU is fastest with; None where memory allows.

    Raises:
        OptionError: a size is impossible, or the base does not run on the generic decoder.
    """

    def __init__(
        self,
        base: BaseModel,
        *,
        max_batch: int = 16,
        cache_tokens: int = _CACHE_TOKENS,
        prefix_tokens: int | None = None,
        prefill_tokens: int | None = None,
        decode: Decode | None = None,
        end_of_sequence: Sequence[int] | None = None,
        prepack: bool | None = None,
    ) -> None:
        check_count("max_batch", max_batch, 1)
        check_count("cache_tokens", cache_tokens, 2 * PAGE)
        if base.decoder is None:
            raise OptionError(f"sampler: expected a model that runs on the generic decoder; {base.name} is {base.path}")
        self.base, self.max_batch, self.decode_text = base, max_batch, decode
        if base.device.type == "cpu":
            keep_freed_memory()
        self.stats = SamplerStats()
        self.residents = Residents(base, cache_tokens, prefix_tokens, self.stats)
        self.forward = Forward(base, self.residents.pool, prepack)
        self.prefill_tokens = prefill_tokens or _PREFILL_TOKENS.get(base.device.type, 1024)
        self.end_of_sequence = tuple(_end_of_sequence(base) if end_of_sequence is None else end_of_sequence)
        self.context_length = min(base.context_length or cache_tokens, self.residents.pool.capacity - PAGE)
        self._orders = itertools.count()
        self._arrived: deque[Request] = deque()
        self._wake = threading.Condition()

    # ---- asking

    def submit(
        self,
        prompt: Sequence[int] | npt.NDArray[Any],
        params: SamplingParams | None = None,
        num_samples: int = 1,
        *,
        adapter: AdapterSnapshot | None = None,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        on_token: OnToken | None = None,
    ) -> Future[SampleResponse]:
        """Queues a request.

        Args:
            prompt: token ids.
            params: how to draw; defaults when None.
            num_samples: how many samples share the prompt.
            adapter: whose weights; None is the base model.
            include_prompt_logprobs, topk_prompt_logprobs: score the prompt's own tokens too.
            topk_sample_logprobs: report this many likeliest tokens at each sampled position.
            on_token: called with (sample index, token, logprob) as each token is drawn.

        Returns:
            a future; cancelling it frees what the request holds at the next step.

        Raises:
            UserError: a value is impossible; the field is named.
        """
        params = params or SamplingParams()
        tokens = check_prompt(prompt, self.base.vocab_size, self.context_length)
        rule = StopRule(params.stop_tokens(self.end_of_sequence), params.stop_strings, self.decode_text)
        check_stop(params, rule, self.base.vocab_size)
        k_prompt = check_count("topk_prompt_logprobs", topk_prompt_logprobs, 0)
        room = self.context_length - len(tokens)
        request = Request(
            order=next(self._orders),
            prompt=tokens,
            params=params,
            num_samples=check_count("num_samples", num_samples, 1),
            snapshot=adapter,
            limit=room if params.max_tokens is None else min(int(params.max_tokens), room),
            stop=rule,
            on_token=on_token,
            topk_prompt=k_prompt,
            topk_sample=check_count("topk_sample_logprobs", topk_sample_logprobs, 0),
            prompt_logprobs=np.full(len(tokens), np.nan, np.float32) if include_prompt_logprobs else None,
            topk_prompt_logprobs=unscored(len(tokens), k_prompt) if k_prompt else None,
        )
        with self._wake:
            self._arrived.append(request)
            self._wake.notify()
        return request.future

    def sample(self, prompt: Sequence[int], params: SamplingParams | None = None, **options: Any) -> SampleResponse:
        """`submit`, run until idle, and the result."""
        future = self.submit(prompt, params, **options)
        self.run_until_idle()
        return future.result()

    def compute_logprobs(
        self, tokens: Sequence[int] | npt.NDArray[Any], *, adapter: AdapterSnapshot | None = None
    ) -> Future[SampleResponse]:
        """Queues scoring alone: `prompt_logprobs` of the result is one per token, the first None; no samples drawn."""
        return self.submit(tokens, SamplingParams(max_tokens=0), adapter=adapter, include_prompt_logprobs=True)

    # ---- running

    @property
    def busy(self) -> bool:
        """Whether anything is left to do."""
        return bool(self._arrived) or self.residents.busy

    def wait(self, timeout: float | None = None) -> bool:
        """Blocks until there is something to do; False when the time is over first."""
        with self._wake:
            return self._wake.wait_for(lambda: self.busy, timeout)

    def run_until_idle(self) -> None:
        while self.step():
            pass

    def step(self) -> bool:
        """One round; gives whether anything is left to do."""
        self._receive()
        self.residents.drop_cancelled()
        self.residents.admit(self.max_batch, self._fail)
        self._prefill()
        self._start()
        self._decode()
        return self.busy

    def _receive(self) -> None:
        while self._arrived:
            request = self._arrived.popleft()
            if request.limit == 0 and not request.scores_prompt:
                self._finish_empty(request)
            else:
                self.residents.waiting.append(Job(request, request.prompt, request.rows()))

    def _prefill(self) -> None:
        """One packed pass over the next chunks of admitted jobs, first come first served.

        A job's chunks begin at multiples of the chunk size whatever else is in the pass, so company changes nothing.
        """
        jobs: list[Job] = []
        tokens = 0
        for job in self.residents.prefilling:
            tokens += len(self._next_tokens(job))
            if jobs and tokens > self.prefill_tokens:
                break
            jobs.append(job)
        jobs.sort(key=_by_adapter)
        self._attempt(jobs, self._prefill_jobs)

    def _next_tokens(self, job: Job) -> npt.NDArray[np.int32]:
        assert job.context is not None
        return job.tokens[job.context.length :][: self.prefill_tokens]

    def _prefill_jobs(self, jobs: Sequence[Job]) -> None:
        chunks: list[Chunk] = []
        for job in jobs:
            assert job.context is not None
            chunks.append(Chunk(job.context, self._next_tokens(job), len(job.tokens), _weights(job.request)))
        states = self.forward.prefill(chunks).split([len(chunk.tokens) for chunk in chunks])
        last: list[tuple[Job, torch.Tensor]] = []
        for job, chunk, hidden in zip(jobs, chunks, states, strict=True):
            if job.scores_prompt:
                score_prompt(self.base.head, job.request, hidden, chunk.context.length)
            if chunk.context.length + len(chunk.tokens) == len(job.tokens):
                last.append((job, hidden[-1:]))
        if last:
            rows = self.forward.logits(torch.cat([h for _, h in last]), [_weights(job.request) for job, _ in last])
            for (job, _), logits in zip(last, rows, strict=True):
                job.logits = logits
        for job, chunk in zip(jobs, chunks, strict=True):
            chunk.context.own_length += len(chunk.tokens)
            self.stats.prefilled_tokens += len(chunk.tokens)
            if job.logits is not None:
                self.residents.prefilled(job)

    def _start(self) -> None:
        """First tokens of samples whose prompt is ready, while rows are free."""
        rows, logits = self.residents.start(self.max_batch)
        for job in self.residents.scored():
            self._finish_empty(job.request)
        if rows:
            self._draw_all(rows, torch.stack(logits))

    def _decode(self) -> None:
        rows = self.residents.make_room()
        rows.sort(key=_by_adapter_and_place)
        self._attempt(rows, self._decode_rows)

    def _decode_rows(self, rows: Sequence[Row]) -> None:
        batch: list[DecodeRow] = []
        for row in rows:
            assert row.context is not None
            batch.append(DecodeRow(row.context, row.tokens[-1], _weights(row.request)))
        logits = self.forward.decode(batch)
        for entry in batch:
            entry.context.own_length += 1
        self.stats.decoded_tokens += len(batch)
        self.stats.decode_steps += 1
        self._draw_all(rows, logits)

    def _draw_all(self, rows: Sequence[Row], logits: torch.Tensor) -> None:
        items = [_Place(row, i) for i, row in enumerate(rows)]
        self._attempt(items, partial(self._draw, logits=logits))

    def _draw(self, places: Sequence[_Place], *, logits: torch.Tensor) -> None:
        """One token for each row from its logits; rows that end with it give their memory back."""
        mine = logits if len(places) == len(logits) else logits[[place.index for place in places]]
        uniforms = [place.row.uniforms.at(len(place.row.tokens)) for place in places]
        tokens, logprobs = draw(mine, [place.row.request.params for place in places], uniforms)
        for place, token, logprob in zip(places, tokens, logprobs, strict=True):
            own = logits[place.index]
            self._attempt([place.row], partial(self._push, token=token, logprob=logprob, logits=own))

    def _push(self, rows: Sequence[Row], *, token: int, logprob: float, logits: torch.Tensor) -> None:
        (row,) = rows
        if math.isnan(logprob):
            raise InternalError(f"sample {row.index}, token {len(row.tokens)}: expected finite logits; got NaN")
        if row.request.topk_sample:
            ids, values = topk_of(logits.unsqueeze(0), row.request.topk_sample)
            row.topk.append((ids[0].tolist(), values[0].tolist()))
        reason = row.push(token, logprob)
        if reason is not None:
            row.finish(reason)
            self.residents.retire(row)
            self._resolve(row.request)

    # ---- ending

    def _resolve(self, request: Request) -> None:
        if len(request.sequences) == request.num_samples:
            try:
                request.future.set_result(request.response())
            except InvalidStateError:
                logger.debug("request %d was cancelled as it ended", request.order)

    def _finish_empty(self, request: Request) -> None:
        for index in range(request.num_samples):
            empty = np.zeros(0, np.float32)
            request.sequences[index] = SampledSequence("length", logprobs_np=empty)
        self._resolve(request)

    def _fail(self, request: Request, error: BaseException) -> None:
        """This request ends with the error; everything else goes on."""
        self.residents.drop(request)
        self.stats.failed += 1
        try:
            request.future.set_exception(error)
        except InvalidStateError:
            logger.debug("request %d was cancelled as it failed", request.order)

    def _attempt(self, items: Sequence[_Item], run: Callable[[Sequence[_Item]], None]) -> None:
        """All at once; when that fails, one by one, so that only the culprit's request fails."""
        if not items:
            return
        try:
            run(items)
        except Exception as error:
            if len(items) == 1:
                logger.warning("a sampling request failed: %s", error, exc_info=error)
                self._fail(items[0].request, error)
                return
            logger.warning("a pass of %d failed (%s): trying one by one", len(items), error)
            for item in items:
                if not item.request.future.done():
                    self._attempt([item], run)


def _weights(request: Request) -> Any:
    return None if request.snapshot is None else request.snapshot.weights


def _by_adapter(item: Job | Row) -> int:
    """Items of one adapter next to each other."""
    return id(_weights(item.request))


def _by_adapter_and_place(row: Row) -> tuple[int, int]:
    """Inside an adapter in the pool's order, in which neighbours are read together."""
    assert row.context is not None
    return _by_adapter(row), row.context.next_row()


def _end_of_sequence(base: BaseModel) -> list[int]:
    """The model's own end tokens."""
    found: list[int] = []
    for config in (getattr(base.module, "generation_config", None), base.config):
        value = getattr(config, "eos_token_id", None)
        values = value if isinstance(value, list | tuple) else [] if value is None else [value]
        found.extend(int(v) for v in values if int(v) not in found)
    return found

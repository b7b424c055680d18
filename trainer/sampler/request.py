"""One sampling request on its way: checked at the door, prefilled once as a job, then one row per sample."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from torch import Tensor

from renderers import InputError, OptionError
from trainer.protocol import MASK_LOGPROB, SampledSequence, SampleResponse, SamplingParams, StopReason, TopkLogprobs

from .draw import UniformStream
from .kv_pool import Context
from .snapshot import AdapterSnapshot
from .stops import StopRule

__all__ = ["Job", "OnToken", "Request", "Row", "check_count", "check_prompt", "check_stop", "unscored"]

# (sample index, token, logprob), from the thread that drives the sampler
OnToken = Callable[[int, int, float], None]


@dataclass(eq=False)
class Request:
    """What one caller waits for.

    Attributes:
        order: grows with every request; the lower one goes first and keeps its memory.
        prompt: int32 (P,).
        limit: most new tokens, the context's end considered.
        topk_prompt, topk_sample: how many likeliest tokens to report per position; 0 for none.
        prompt_logprobs: float32 (P,) being filled, or None when not asked for.
    """

    order: int
    prompt: npt.NDArray[np.int32]
    params: SamplingParams
    num_samples: int
    snapshot: AdapterSnapshot | None
    limit: int
    stop: StopRule
    on_token: OnToken | None
    topk_prompt: int
    topk_sample: int
    prompt_logprobs: npt.NDArray[np.float32] | None
    topk_prompt_logprobs: TopkLogprobs | None
    future: Future[SampleResponse] = field(default_factory=Future[SampleResponse])
    cache_hit_tokens: int = 0
    sequences: dict[int, SampledSequence] = field(default_factory=dict[int, SampledSequence])

    @property
    def scores_prompt(self) -> bool:
        return self.prompt_logprobs is not None or self.topk_prompt > 0

    def rows(self) -> list[Row]:
        """One per sample, each with the uniforms of its own."""
        seed = secrets.randbits(63) if self.params.seed is None else int(self.params.seed)
        return [Row(self, index, UniformStream(seed, index)) for index in range(self.num_samples)]

    def response(self) -> SampleResponse:
        """The result; every sample must be there."""
        sequences = [self.sequences[index] for index in range(self.num_samples)]
        return SampleResponse(sequences, self.prompt_logprobs, self.topk_prompt_logprobs, self.cache_hit_tokens)


@dataclass(eq=False)
class Row:
    """One sample: what is drawn so far, and its context once it has one.

    The last drawn token is not in the context yet: the next decode step puts it there.
    """

    request: Request
    index: int
    uniforms: UniformStream
    tokens: list[int] = field(default_factory=list[int])
    logprobs: list[float] = field(default_factory=list[float])
    topk: list[tuple[list[int], list[float]]] = field(default_factory=list[tuple[list[int], list[float]]])
    context: Context | None = None

    @property
    def order(self) -> tuple[int, int]:
        return self.request.order, self.index

    @property
    def remaining(self) -> int:
        return self.request.limit - len(self.tokens)

    def so_far(self) -> npt.NDArray[np.int32]:
        """Prompt and drawn tokens, int32."""
        return np.concatenate([self.request.prompt, np.array(self.tokens, dtype=np.int32)])

    def push(self, token: int, logprob: float) -> StopReason | None:
        """One more token; the reason when the sample ends with it."""
        self.tokens.append(token)
        self.logprobs.append(logprob)
        if self.request.on_token is not None:
            self.request.on_token(self.index, token, logprob)
        if self.request.stop.matches(self.tokens):
            return "stop"
        return "length" if self.remaining == 0 else None

    def finish(self, reason: StopReason) -> None:
        """Puts the sample among the request's results."""
        topk = None
        if self.request.topk_sample:
            ids = np.array([ids for ids, _ in self.topk], dtype=np.int32)
            topk = TopkLogprobs(ids, np.array([values for _, values in self.topk], dtype=np.float32))
        self.request.sequences[self.index] = SampledSequence(
            reason,
            tokens_np=np.array(self.tokens, dtype=np.int32),
            logprobs_np=np.array(self.logprobs, dtype=np.float32),
            topk_logprobs_np=topk,
        )


@dataclass(eq=False)
class Job:
    """Tokens to prefill, and the rows that start from their end.

    Attributes:
        tokens: int32; the prompt, or a preempted row's prompt and drawn tokens.
        rows: not started yet.
        resumed: whether a row has drawn tokens before; its prompt is scored already.
        context: None while waiting.
        logits: float32 (V,) after the last token, once prefilled.
    """

    request: Request
    tokens: npt.NDArray[np.int32]
    rows: list[Row]
    resumed: bool = False
    context: Context | None = None
    logits: Tensor | None = None

    @property
    def order(self) -> tuple[int, int]:
        return self.request.order, min((row.index for row in self.rows), default=0)

    @property
    def scores_prompt(self) -> bool:
        return self.request.scores_prompt and not self.resumed


def check_prompt(tokens: Any, vocab_size: int, context_length: int) -> npt.NDArray[np.int32]:
    """Token ids as int32 (P,).

    Raises:
        InputError: not a flat list of ids, empty, an id outside the vocabulary, or longer than the context.
    """
    array = np.asarray(tokens)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise InputError("prompt", "bad_type", f"expected a flat list of token ids; got shape {array.shape}")
    if array.size == 0:
        raise InputError("prompt", "empty", "expected at least one token; got none")
    wrong = np.flatnonzero((array < 0) | (array >= vocab_size))
    if len(wrong):
        place = f"prompt[{wrong[0]}]"
        raise InputError(place, "unknown_token", f"expected an id in [0, {vocab_size}); got {array[wrong[0]]}")
    if len(array) > context_length:
        detail = f"expected at most {context_length} tokens, what context and cache hold; got {len(array)}"
        raise InputError("prompt", "too_long", detail)
    return array.astype(np.int32)


def check_count(name: str, value: Any, low: int) -> int:
    """An integer of at least `low`; `OptionError` names the field otherwise."""
    if not isinstance(value, int | np.integer) or isinstance(value, bool) or value < low:
        raise OptionError(f"{name}: expected an integer of at least {low}; got {value!r}")
    return int(value)


def check_stop(params: SamplingParams, rule: StopRule, vocab_size: int) -> None:
    """Stop strings need a decoder, stop ids a place in the vocabulary."""
    if rule.strings and rule.decode is None:
        raise OptionError("sampling_params.stop: expected token ids, for this sampler has no tokenizer; got strings")
    for token in sorted(rule.tokens):
        if token >= vocab_size and params.stop is not None:
            raise OptionError(f"sampling_params.stop: expected ids below {vocab_size}; got {token}")


def unscored(length: int, k: int) -> TopkLogprobs:
    """A top-k matrix with nothing in it yet."""
    return TopkLogprobs(np.zeros((length, k), np.int32), np.full((length, k), MASK_LOGPROB, np.float32))

"""What a sampling request asks for and what it gives, by the SDK's field names; numpy inside, lists on demand."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from renderers import OptionError

__all__ = ["MASK_LOGPROB", "SampleResponse", "SampledSequence", "SamplingParams", "StopReason", "TopkLogprobs"]

StopReason = Literal["stop", "length"]
# An unused cell of a top-k matrix holds token 0 and this.
MASK_LOGPROB = -99999.0


def _integer(value: Any) -> bool:
    return isinstance(value, int | np.integer) and not isinstance(value, bool)


@dataclass(frozen=True)
class SamplingParams:
    """How tokens are drawn, and when to stop.

    Attributes:
        max_tokens: most new tokens; None goes on to the context's end; 0 draws none.
        seed: the same seed gives the same samples whatever else runs; None draws one from the system.
        stop: None stops at the model's end-of-sequence tokens; `[]` at nothing; strings or token ids stop at exactly
            those. The tokens that complete the match stay in the output.
        temperature: logits are divided by it; 0 takes the likeliest token.
        top_k: only the k likeliest tokens; -1 for all.
        top_p: only the smallest set of likeliest tokens whose mass reaches it, after temperature and top_k.

    Raises:
        OptionError: a value is impossible; the field is named.
    """

    max_tokens: int | None = None
    seed: int | None = None
    stop: str | Sequence[str] | Sequence[int] | None = None
    temperature: float = 1.0
    top_k: int = -1
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if self.max_tokens is not None and (not _integer(self.max_tokens) or self.max_tokens < 0):
            raise OptionError(
                f"sampling_params.max_tokens: expected an integer of at least 0 or None; got {self.max_tokens!r}"
            )
        if self.seed is not None and not _integer(self.seed):
            raise OptionError(f"sampling_params.seed: expected an integer or None; got {self.seed!r}")
        self._check_number("temperature", self.temperature, 0.0, math.inf)
        self._check_number("top_p", self.top_p, 0.0, 1.0)
        if self.top_p == 0.0:
            raise OptionError("sampling_params.top_p: expected a number in (0, 1]; got 0")
        if not _integer(self.top_k) or (self.top_k < 1 and self.top_k != -1):
            raise OptionError(f"sampling_params.top_k: expected -1 or an integer of at least 1; got {self.top_k!r}")
        self._check_stop()

    @staticmethod
    def _check_number(name: str, value: Any, low: float, high: float) -> None:
        right = isinstance(value, int | float | np.floating) and not isinstance(value, bool) and math.isfinite(value)
        if not right or not low <= value <= high:
            bracket = ")" if math.isinf(high) else "]"
            raise OptionError(
                f"sampling_params.{name}: expected a number in [{low:g}, {high:g}{bracket}; got {value!r}"
            )

    def _check_stop(self) -> None:
        stop: Any = self.stop
        if stop is None or (isinstance(stop, str) and stop):
            return
        expected = "expected None, a string, a list of strings or a list of token ids"
        if isinstance(stop, str | bytes) or not isinstance(stop, Sequence | np.ndarray):
            raise OptionError(f"sampling_params.stop: {expected}; got {stop!r}")
        wanted = str if len(stop) > 0 and isinstance(stop[0], str) else int
        for i, item in enumerate(stop):
            right = (isinstance(item, str) and item) if wanted is str else (_integer(item) and item >= 0)
            if not right:
                what = "a string that is not empty" if wanted is str else "a token id"
                raise OptionError(f"sampling_params.stop[{i}]: expected {what}; got {item!r}")

    @property
    def stop_strings(self) -> tuple[str, ...]:
        """The strings that stop; empty when none do."""
        if isinstance(self.stop, str):
            return (self.stop,)
        return tuple(item for item in self.stop or () if isinstance(item, str))

    def stop_tokens(self, end_of_sequence: Sequence[int]) -> frozenset[int]:
        """The ids that stop, given the model's own."""
        if self.stop is None:
            return frozenset(end_of_sequence)
        if isinstance(self.stop, str):
            return frozenset()
        return frozenset(int(item) for item in self.stop if not isinstance(item, str))


@dataclass(frozen=True)
class TopkLogprobs:
    """The likeliest tokens of n positions.

    Attributes:
        token_ids: int32 (n, k), likeliest first; 0 in unused cells.
        logprobs: float32 (n, k); `MASK_LOGPROB` in unused cells.
    """

    token_ids: npt.NDArray[np.int32]
    logprobs: npt.NDArray[np.float32]

    def to_lists(self) -> list[list[tuple[int, float]] | None]:
        """Per position (token, logprob) pairs; None where nothing was scored."""
        rows: list[list[tuple[int, float]] | None] = []
        for ids, logprobs in zip(self.token_ids.tolist(), self.logprobs.tolist(), strict=True):
            pairs = [(i, lp) for i, lp in zip(ids, logprobs, strict=True) if lp != MASK_LOGPROB]
            rows.append(pairs or None)
        return rows


@dataclass(frozen=True)
class SampledSequence:
    """One sample.

    Attributes:
        stop_reason: `stop` when a stop rule matched, `length` at `max_tokens` or the context's end.
        sequence_id: the session's name for it.
        tokens_np: int32 (n,), the token that stopped it included.
        logprobs_np: float32 (n,), of the chosen tokens under the model's own distribution: temperature 1, no filter.
        topk_logprobs_np: the likeliest tokens at each of the n positions, when asked for.
    """

    stop_reason: StopReason
    sequence_id: str = ""
    tokens_np: npt.NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32), repr=False)
    logprobs_np: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    topk_logprobs_np: TopkLogprobs | None = field(default=None, repr=False)

    @cached_property
    def tokens(self) -> list[int]:
        return self.tokens_np.tolist()

    @cached_property
    def logprobs(self) -> list[float] | None:
        return None if self.logprobs_np is None else self.logprobs_np.tolist()

    @cached_property
    def topk_logprobs(self) -> list[list[tuple[int, float]] | None] | None:
        return None if self.topk_logprobs_np is None else self.topk_logprobs_np.to_lists()


@dataclass(frozen=True)
class SampleResponse:
    """What one request gives.

    Attributes:
        sequences: exactly `num_samples`, in order.
        prompt_logprobs_np: float32 (prompt,), NaN at 0, when asked for.
        topk_prompt_logprobs_np: the likeliest tokens at each prompt position (row 0 masked), when asked for.
        prompt_cache_hit_tokens: prompt tokens whose keys and values were there already.
    """

    sequences: Sequence[SampledSequence]
    prompt_logprobs_np: npt.NDArray[np.float32] | None = field(default=None, repr=False)
    topk_prompt_logprobs_np: TopkLogprobs | None = field(default=None, repr=False)
    prompt_cache_hit_tokens: int = 0

    @cached_property
    def prompt_logprobs(self) -> list[float | None] | None:
        """One per prompt token; None where there is nothing before it."""
        if self.prompt_logprobs_np is None:
            return None
        return [None if math.isnan(value) else value for value in self.prompt_logprobs_np.tolist()]

    @cached_property
    def topk_prompt_logprobs(self) -> list[list[tuple[int, float]] | None] | None:
        return None if self.topk_prompt_logprobs_np is None else self.topk_prompt_logprobs_np.to_lists()

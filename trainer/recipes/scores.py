"""Numbers out of logprobs: weighted sums per row, and how many bytes the trained tokens stand for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from renderers import Datum, Tokenizer, UserError

__all__ = ["ByteCounts", "Score", "mean_nll", "rows_not_finite", "score_rows", "trained"]

_LN2 = float(np.log(2.0))


@dataclass(frozen=True)
class Score:
    """What one row's logprobs say, over positions with a weight other than 0.

    Attributes:
        loss: sum of weight times negative logprob.
        weight: sum of weights.
        count: how many positions.
        bits, bytes: weighted bits and bytes of those whose target is text; 0 where nobody asked.
    """

    loss: float
    weight: float
    count: int
    bits: float = 0.0
    bytes: float = 0.0

    @property
    def is_finite(self) -> bool:
        return bool(np.isfinite(self.loss))


class ByteCounts:
    """Bytes per token id; 0 for control tokens, which no text is made of."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._known: dict[int, int] = dict.fromkeys(tokenizer.control_ids, 0)

    def __call__(self, tokens: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        """int64 as `tokens` is shaped; raises `UserError` when this kind of tokenizer has no bytes per token."""
        distinct, where = np.unique(tokens, return_inverse=True)
        for token in distinct.tolist():
            if token not in self._known:
                self._known[token] = len(self._tokenizer.token_bytes(token))
        return np.array([self._known[token] for token in distinct.tolist()], np.int64)[where].reshape(tokens.shape)

    def work(self) -> bool:
        """Whether the tokens of this tokenizer have bytes at all."""
        try:
            self(np.arange(1))
        except UserError:
            return False
        return True


def trained(datum: Datum) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.float64]]:
    """Which positions have a weight, bool as flat targets, and those weights, float64 (count,)."""
    weights = datum.loss_fn_inputs["weights"].to_numpy().ravel().astype(np.float64)
    return weights != 0, weights[weights != 0]


def score_rows(
    data: Sequence[Datum], outputs: Sequence[Mapping[str, Any]], byte_counts: ByteCounts | None = None
) -> list[Score]:
    """A score per row, from `loss_fn_outputs` (ours or the SDK's)."""
    return [_score(datum, output, byte_counts) for datum, output in zip(data, outputs, strict=True)]


def _score(datum: Datum, output: Mapping[str, Any], byte_counts: ByteCounts | None) -> Score:
    used, weights = trained(datum)
    # Positions without a weight may be NaN: the head is skipped where the loss is silent.
    nll = -np.asarray(output["logprobs"].to_numpy(), np.float64).ravel()[used]
    loss, weight, count = float(weights @ nll), float(weights.sum()), len(weights)
    if byte_counts is None:
        return Score(loss, weight, count)
    lengths = byte_counts(datum.loss_fn_inputs["target_tokens"].to_numpy().ravel()[used])
    text = lengths > 0
    return Score(loss, weight, count, float(weights[text] @ nll[text]) / _LN2, float(weights @ lengths))


def mean_nll(scores: Iterable[Score]) -> float:
    """Weighted mean negative logprob, in nats per unit of weight."""
    listed = list(scores)
    return sum(s.loss for s in listed) / (sum(s.weight for s in listed) or 1.0)


def rows_not_finite(rows: Sequence[int], scores: Sequence[Score]) -> list[int]:
    """The rows whose loss is NaN or infinite."""
    return [row for row, score in zip(rows, scores, strict=True) if not score.is_finite]

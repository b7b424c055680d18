"""tinker-cookbook: `conversation_to_datum`, its own way from a conversation to a Datum."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, rows, run


def load(options: Options) -> Any:
    from tinker_cookbook.renderers import TrainOnWhat, get_renderer
    from tinker_cookbook.supervised.data import conversation_to_datum
    from transformers import AutoTokenizer

    renderer = get_renderer(options.mode or "qwen3", AutoTokenizer.from_pretrained(str(options.folder)))
    return renderer, conversation_to_datum, TrainOnWhat.ALL_ASSISTANT_MESSAGES


def convert(state: Any, path: Path) -> Counts:
    renderer, conversation_to_datum, train_on_what = state
    counts = Counts()
    for row in rows(path, counts):
        datum = conversation_to_datum(row["messages"], renderer, None, train_on_what)
        # Its datum is already shifted: one position less than the sequence.
        counts.add(datum.model_input.length + 1, int((datum.loss_fn_inputs["weights"].to_numpy() > 0).sum()))
    return counts


def examples(state: Any, path: Path, counts: Counts) -> Iterator[tuple[Any, Any]]:
    """Its datums, unshifted; `convert` is timed, so that the way back to arrays is not on its bill."""
    import numpy as np

    renderer, conversation_to_datum, train_on_what = state
    for row in rows(path, counts):
        datum = conversation_to_datum(row["messages"], renderer, None, train_on_what)
        targets, weights = (datum.loss_fn_inputs[name].to_numpy() for name in ("target_tokens", "weights"))
        yield np.append(datum.model_input.to_ints()[:1], targets), np.append(np.float32(0), weights)


def prompt(state: Any, messages: list[dict[str, Any]]) -> list[int]:
    return state[0].build_generation_prompt(messages).to_ints()


if __name__ == "__main__":
    packages = ["tinker-cookbook", "tinker", "transformers", "tokenizers", "torch"]
    run(Adapter(packages, load, examples, convert, prompt))

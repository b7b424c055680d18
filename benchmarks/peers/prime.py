"""Prime Intellect's renderers: `build_training_sample` with every assistant message trained."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, rows, run


def load(options: Options) -> Any:
    import numpy as np

    from renderers import Qwen3RendererConfig, create_renderer
    from renderers.base import build_training_sample, load_tokenizer

    renderer = create_renderer(load_tokenizer(str(options.folder)), Qwen3RendererConfig())
    return renderer, build_training_sample, np


def examples(state: Any, path: Path, counts: Counts) -> Iterator[tuple[Any, Any]]:
    renderer, build_training_sample, np = state
    for row in rows(path, counts):
        sample = build_training_sample(
            renderer, row["messages"], role_to_mask=lambda message: message["role"] == "assistant"
        )
        yield np.asarray(sample.token_ids, np.int32), np.asarray(sample.loss_mask, np.float32)


def prompt(state: Any, messages: list[dict[str, Any]]) -> list[int]:
    return state[0].render_ids(messages, add_generation_prompt=True)


if __name__ == "__main__":
    run(Adapter(["renderers", "transformers", "tokenizers"], load, examples, prompt=prompt))

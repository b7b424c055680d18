"""The compiled tml-renderers: `render_for_sft`, one example per assistant turn, with the vocabulary it carries."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, rows, run


def load(options: Options) -> Any:
    import numpy as np
    from tml_renderers import chat, renderers

    return getattr(renderers, options.mode or "Qwen3")(), chat.MessageList.from_oss_messages, np


def examples(state: Any, path: Path, counts: Counts) -> Iterator[tuple[Any, Any]]:
    renderer, to_messages, np = state
    for row in rows(path, counts):
        for example in renderer.render_for_sft(to_messages(row["messages"])):
            spans = [np.asarray(span.span.tokens, np.int32) for span in example.input_token_spans]
            tokens = spans[0] if len(spans) == 1 else np.concatenate(spans)
            yield tokens, np.asarray(example.per_token_loss_weight_unshifted, np.float32)


def prompt(state: Any, messages: list[dict[str, Any]]) -> list[int]:
    renderer, to_messages, _ = state
    spans, _parser = renderer.render_for_completion(to_messages(messages))
    return [token for span in spans for token in span.span.tokens]


if __name__ == "__main__":
    run(Adapter(["tml-renderers", "torch"], load, examples, prompt=prompt))

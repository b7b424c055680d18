"""transformers: `apply_chat_template` with the assistant mask, one call per conversation (mode `batch`: 256 a call)."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, rows, run
from marked_template import marked_template


def load(options: Options) -> Any:
    import numpy as np
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(options.folder))
    tokenizer.chat_template = marked_template(options.folder)
    return tokenizer, 256 if options.mode == "batch" else 1, np


def examples(state: Any, path: Path, counts: Counts) -> Iterator[tuple[Any, Any]]:
    tokenizer, size, np = state
    source = rows(path, counts)
    while block := [row["messages"] for row in islice(source, size)]:
        out = tokenizer.apply_chat_template(
            block if size > 1 else block[0], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
        )
        ids, masks = out["input_ids"], out["assistant_masks"]
        for row_ids, row_mask in zip(ids, masks, strict=True) if size > 1 else [(ids, masks)]:
            yield np.asarray(row_ids, np.int32), np.asarray(row_mask, np.float32)


def prompt(state: Any, messages: list[dict[str, Any]]) -> list[int]:
    return state[0].apply_chat_template(messages, tokenize=True, add_generation_prompt=True, return_dict=False)


if __name__ == "__main__":
    run(Adapter(["transformers", "tokenizers"], load, examples, prompt=prompt))

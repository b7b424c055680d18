"""TRL: a real `SFTTrainer` prepares the dataset, from JSONL to its Arrow columns `input_ids` and `labels`."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, run
from marked_template import marked_template


def load(options: Options) -> Any:
    """A trainer over a model of a few thousand weights; the dataset it is made with is one short conversation."""
    import pyarrow.compute as pc
    import torch
    from datasets import Dataset, disable_progress_bars, load_dataset
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForCausalLM
    from trl import SFTConfig, SFTTrainer

    torch.set_num_threads(1)
    disable_progress_bars()
    tokenizer = AutoTokenizer.from_pretrained(str(options.folder))
    tokenizer.chat_template = marked_template(options.folder)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        num_key_value_heads=1,
        head_dim=8,
    )
    scratch = tempfile.TemporaryDirectory()
    messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
    arguments = SFTConfig(
        output_dir=scratch.name, assistant_only_loss=True, max_length=None, use_cpu=True, bf16=False, report_to=[]
    )
    trainer = SFTTrainer(
        Qwen3ForCausalLM(config),
        args=arguments,
        train_dataset=Dataset.from_list([{"messages": messages}]),
        processing_class=tokenizer,
    )
    return trainer, load_dataset, pc, scratch


def convert(state: Any, path: Path) -> Counts:
    pc = state[2]
    with tempfile.TemporaryDirectory() as cache:
        dataset = _prepared(state, path, cache)
        table = dataset.data
        trained = sum(
            pc.sum(pc.not_equal(chunk.flatten(), -100)).as_py() or 0 for chunk in table.column("labels").chunks
        )
        tokens = sum(len(chunk.flatten()) for chunk in table.column("input_ids").chunks)
        # It drops no row: nothing is cut and every row has an assistant turn.
        return Counts(conversations=len(dataset), examples=len(dataset), tokens=tokens, trained=trained)


def examples(state: Any, path: Path, _counts: Counts) -> Iterator[tuple[Any, Any]]:
    import numpy as np

    with tempfile.TemporaryDirectory() as cache:
        for row in _prepared(state, path, cache):
            yield np.asarray(row["input_ids"]), (np.asarray(row["labels"]) != -100).astype(np.float32)


def _prepared(state: Any, path: Path, cache: str) -> Any:
    trainer, load_dataset, *_ = state
    raw = load_dataset("json", data_files=str(path), split="train", cache_dir=cache)
    return trainer._prepare_dataset(raw, trainer.processing_class, trainer.args, False, None, "train")


if __name__ == "__main__":
    run(Adapter(["trl", "transformers", "tokenizers", "datasets", "torch"], load, examples, convert))

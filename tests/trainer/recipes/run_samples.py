"""A tiny random model, shards of fixture chats for it, and short runs over them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from datasets_io import RenderSpec, build_shards
from trainer.recipes import TrainConfig, TrainResult, train_from_shards

ROOT = Path(__file__).resolve().parents[3]
TOKENIZER = ROOT / "fixtures" / "tiny-chat"
CONVERSATIONS = ROOT / "fixtures" / "conversations"
NUM_ROWS = 48


def write_model(folder: Path, **changes: Any) -> Path:
    """A random Qwen3-style model with the fixture tokenizer, saved as a user's model would be."""
    import torch
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    settings: dict[str, Any] = {
        "vocab_size": 8192,
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "head_dim": 16,
        "max_position_embeddings": 512,
        "tie_word_embeddings": True,
        "eos_token_id": 8185,
        **changes,
    }
    folder.mkdir(parents=True, exist_ok=True)
    module = Qwen3ForCausalLM(Qwen3Config(**settings))
    with torch.no_grad():
        module.get_input_embeddings().weight.mul_(10)  # so that a random model has something to unlearn
    module.save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "generation_config.json"):
        shutil.copy(TOKENIZER / name, folder / name)
    return folder


def write_shards(folder: Path, file: str = "train_chat.jsonl", rows: int = NUM_ROWS, **options: Any) -> Path:
    """The first rows of a fixture file, a quarter held out."""
    source = folder.with_suffix(".jsonl")
    lines = (CONVERSATIONS / file).read_bytes().split(b"\n")[:rows]
    source.write_bytes(b"\n".join(lines) + b"\n")
    spec = {"model": str(TOKENIZER), "eval_fraction": 0.25, **options}
    build_shards([source], folder, RenderSpec(**spec))
    return folder


def config_of(model: Path, shards: Path, out: Path, **changes: Any) -> TrainConfig:
    """A run of a second: 8 rows per step, a small adapter, a rate that shows."""
    values: dict[str, Any] = {
        "model": str(model),
        "shards": str(shards),
        "out": str(out),
        "batch_size": 8,
        "learning_rate": 5e-3,
        "lora": {"rank": 4, "seed": 3},
        "dtype": "float32",
        "device": "cpu",
        **changes,
    }
    return TrainConfig.model_validate(values)


def run(model: Path, shards: Path, out: Path, **changes: Any) -> TrainResult:
    return train_from_shards(config_of(model, shards, out, **changes))


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_bytes().split(b"\n")[:-1]]


def measured(folder: Path) -> list[dict[str, Any]]:
    """`metrics.jsonl` without what depends on the clock."""
    clock = ("time/", "tokens_per_second")
    return [
        {key: value for key, value in line.items() if not key.startswith(clock)}
        for line in lines_of(folder / "metrics.jsonl")
    ]


def adapter_of(result: TrainResult) -> dict[str, bytes]:
    """Bytes of the final checkpoints' tensors, weights and moments, by file name."""
    folders = [path for path in (result.folder / "checkpoints").rglob("final") if path.is_dir()]
    assert len(folders) == 2, folders
    found = {
        f"{folder.parent.name}/{file.name}": file.read_bytes()
        for folder in folders
        for file in folder.rglob("*.safetensors")
    }
    assert len(found) >= 3
    return found

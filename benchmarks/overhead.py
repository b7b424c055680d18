"""What the in-process client costs over a bare engine call: one `forward_backward` of 1,000 tokens, both in turn.

    python benchmarks/overhead.py [--tokens 1000] [--repeats 15] [--small]

The model is the 40 M-parameter one of `train.py` (`--small`: 2 layers of 32, where the cost of a call shows). Wall time
and process CPU time are taken of each; the ratio is between the bests of this very run, and the CPU ratio is the one
that a busy machine changes least.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from train import make_model

from renderers import Datum, ModelInput
from trainer import ServiceClient
from trainer.engine import BaseModel, Engine
from trainer.protocol import LoraConfig

RANK = 16


@dataclass(frozen=True)
class Timing:
    """Seconds of each call."""

    wall: list[float]
    cpu: list[float]


def make_small(dtype: torch.dtype) -> Any:
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=512, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=2, head_dim=16,
        intermediate_size=48, max_position_embeddings=4096, tie_word_embeddings=False,
    )  # fmt: skip
    return Qwen3ForCausalLM(config).to(dtype).eval()


def make_batch(tokens: int, vocab_size: int) -> list[Datum]:
    """Eight datums that add up to `tokens`."""
    rng = np.random.default_rng(0)
    lengths = [tokens // 8] * 7 + [tokens - 7 * (tokens // 8)]
    data: list[Datum] = []
    for length in lengths:
        ids = rng.integers(0, vocab_size, length + 1)
        data.append(Datum(ModelInput.from_ints(ids[:-1]), {"target_tokens": ids[1:], "weights": np.ones(length)}))
    return data


def measure(calls: list[Callable[[], Any]], repeats: int) -> list[Timing]:
    """Each call in turn, after one unmeasured round."""
    timings = [Timing([], []) for _ in calls]
    for i in range(repeats + 1):
        for call, timing in zip(calls, timings, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            call()
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            if i > 0:
                timing.wall.append(wall)
                timing.cpu.append(cpu)
    return timings


def overhead(tokens: int = 1000, repeats: int = 15, *, small: bool = False) -> dict[str, float]:
    """Client over engine: ratios of wall and CPU time, best of each, and the milliseconds they are made of."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model"
        module = make_small(torch.float32) if small else make_model(torch.float32)
        module.save_pretrained(model)
        data = make_batch(tokens, module.config.vocab_size)
        engine = Engine(BaseModel.load(model))
        adapter = engine.create_adapter(LoraConfig(rank=RANK, seed=0))
        with ServiceClient(base_model=model, checkpoint_dir=Path(folder) / "checkpoints") as client:
            training = client.create_lora_training_client(str(model), rank=RANK, seed=0).result()
            expected = engine.forward_backward(adapter, data).metrics
            assert training.forward_backward(data, "cross_entropy").result().metrics == expected
            bare, ours = measure(
                [
                    lambda: engine.forward_backward(adapter, data),
                    lambda: training.forward_backward(data, "cross_entropy").result(),
                ],
                repeats,
            )
    return {
        "engine_ms": 1e3 * min(bare.wall),
        "client_ms": 1e3 * min(ours.wall),
        "wall_ratio": min(ours.wall) / min(bare.wall),
        "cpu_ratio": min(ours.cpu) / min(bare.cpu),
        "median_cpu_ratio": statistics.median(ours.cpu) / statistics.median(bare.cpu),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--tokens", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--small", action="store_true")
    arguments = parser.parse_args()
    for name, value in overhead(arguments.tokens, arguments.repeats, small=arguments.small).items():
        print(f"{name:18s} {value:10.3f}")


if __name__ == "__main__":
    main()

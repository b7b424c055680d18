"""A training program written for the SDK and its cookbook, only its imports changed."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="the in-process service needs the extra `train`")

import renderers
import renderers as tokenizer_utils
import trainer as tinker
from trainer import types


def load_dataset(jsonl_path: str, model_name: str) -> list[types.Datum]:
    tokenizer = tokenizer_utils.get_tokenizer(model_name)
    renderer = renderers.get_renderer("llama3", tokenizer)
    data = []
    with open(jsonl_path) as f:  # noqa: PTH123
        for line in f:
            example = json.loads(line)
            messages = example["messages"]
            model_input, weights = renderer.build_supervised_example(messages)
            input_tokens = model_input.to_ints()
            target_tokens = input_tokens[1:]
            input_tokens = input_tokens[:-1]
            weights = weights[1:]
            datum = types.Datum(
                model_input=types.ModelInput.from_ints(tokens=input_tokens),
                loss_fn_inputs={"target_tokens": target_tokens, "weights": weights},
            )
            data.append(datum)
    return data


async def train_on_book_dataset(
    dataset: list[types.Datum], model_name: str, learning_rate: float = 1e-4, epochs: int = 1
) -> list[Any]:
    results: list[Any] = []
    service_client = tinker.ServiceClient()
    training_client = await service_client.create_lora_training_client_async(base_model=model_name, rank=32)
    for _epoch in range(epochs):
        for batch_start in range(0, len(dataset), 1):
            batch = dataset[batch_start : batch_start + 1]
            fwd_bwd_future = await training_client.forward_backward_async(batch, loss_fn="cross_entropy")
            optim_future = await training_client.optim_step_async(types.AdamParams(learning_rate=learning_rate * 2.0))
            fwd_bwd_result = await fwd_bwd_future
            optim_result = await optim_future
            results.append((fwd_bwd_result, optim_result))
    return results


@pytest.mark.filterwarnings("error")
def test_the_loop_of_the_format_page_runs_and_learns(model: str, tmp_path: Path) -> None:
    conversations = [
        [
            {"role": "system", "content": "You write short lines."},
            {"role": "user", "content": f"Write line {i}."},
            {"role": "assistant", "content": "The rain came over the hill and stayed."},
        ]
        for i in range(3)
    ]
    path = tmp_path / "book.jsonl"
    path.write_text("".join(json.dumps({"messages": m}) + "\n" for m in conversations))
    dataset = load_dataset(str(path), model)
    results = asyncio.run(train_on_book_dataset(dataset, model, learning_rate=5e-3, epochs=6))
    losses = [forward.metrics["loss:sum"] for forward, _ in results]
    assert len(losses) == 18
    assert sum(losses[-3:]) < 0.5 * sum(losses[:3])
    assert [step.metrics["step"] for _, step in results] == list(range(1, 19))

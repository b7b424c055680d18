"""The documented Tinker usage (rendering, weights, JSON lines to `Datum`) with nothing but its imports changed."""

from __future__ import annotations

import json
from pathlib import Path

import renderers
import renderers as tokenizer_utils
import renderers as types


def load_dataset(jsonl_path: str, model_name: str) -> list[types.Datum]:
    tokenizer = tokenizer_utils.get_tokenizer(model_name)
    renderer = renderers.get_renderer("chat_template", tokenizer)

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


def test_load_dataset(repository: Path, tmp_path: Path) -> None:
    rows = [
        [
            {"role": "system", "content": "You are a writer."},
            {"role": "user", "content": "Write a line."},
            {"role": "assistant", "content": "The rain came early that year."},
        ],
        [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hello!"}],
    ]
    path = tmp_path / "book.jsonl"
    path.write_text("".join(json.dumps({"messages": row}) + "\n" for row in rows))
    model = str(repository / "fixtures" / "tiny-chat")
    tokenizer = renderers.get_tokenizer(model)
    for row, datum in zip(rows, load_dataset(str(path), model), strict=True):
        targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
        weights = datum.loss_fn_inputs["weights"].to_numpy()
        trained = targets[weights == 1].tolist()
        assert tokenizer.decode(trained) == row[-1]["content"] + "<|im_end|>"
        assert set(weights.tolist()) == {0.0, 1.0}
        assert datum.model_input.to_ints()[1:] == targets[:-1].tolist()

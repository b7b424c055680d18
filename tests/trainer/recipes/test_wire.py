"""The SDK's types in every call, as for a server; the service behind takes them as it takes ours."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from renderers import Datum, ModelInput
from tests.trainer.recipes.run_samples import adapter_of, config_of, run, write_shards
from trainer import ServiceClient
from trainer.recipes import open_wire, train_from_shards

OPTIONS: dict[str, Any] = {
    "max_steps": 2,
    "sample": {"prompts": ["Hello"], "max_tokens": 2},
    "lora": {"rank": 4, "seed": 3},
}


def test_in_process_values_are_ours() -> None:
    wire = open_wire(None)
    datum = Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3], "weights": [0.0, 1.0]})
    assert wire.data([datum])[0] is datum
    assert wire.prompt(datum.model_input) is datum.model_input


@pytest.mark.parametrize(("objective", "file"), [("sft", "train_chat.jsonl"), ("dpo", "preference.jsonl")])
@pytest.mark.filterwarnings("ignore")
def test_a_run_with_the_sdks_types_is_the_same_run(
    objective: str, file: str, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("tinker", reason="the SDK is not installed (extra remote)")
    import importlib

    recipe = importlib.import_module("trainer.recipes.train_from_shards")
    shards = write_shards(tmp_path / "shards", file, rows=12)
    ours = run(model, shards, tmp_path / "ours", objective=objective, **OPTIONS)

    monkeypatch.setattr(
        recipe,
        "open_service",
        lambda _, folder: ServiceClient(dtype="float32", device="cpu", checkpoint_dir=folder),
    )
    seen: list[str] = []
    convert = recipe.open_wire

    def watched(base_url: str | None) -> Any:
        wire = convert(base_url)
        seen.append(type(wire.adam_params(learning_rate=1e-3)).__module__.split(".")[0])
        return wire

    monkeypatch.setattr(recipe, "open_wire", watched)
    config = config_of(model, shards, tmp_path / "sdk", objective=objective, base_url="http://127.0.0.1:9", **OPTIONS)
    theirs = train_from_shards(config)
    assert seen == ["tinker"]
    assert adapter_of(theirs) == adapter_of(ours)

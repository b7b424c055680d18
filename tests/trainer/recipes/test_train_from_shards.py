"""A run from beginning to end: what it trains, measures and leaves behind, against plain loops."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_io import ShardReader
from renderers import MissingExtraError, UserError, get_tokenizer
from tests.trainer.recipes.run_samples import adapter_of, config_of, lines_of, measured, run, write_shards
from trainer import AdamParams, ServiceClient
from trainer.recipes import TrainResult, learning_rate_at, train_from_shards


def plain_loop(model: Path, shards: Path, out: Path, config: Any) -> list[float]:
    """The same training with nothing around it: rows by their order, sums of gradients, one step per batch."""
    from datasets_io.batching import row_order

    reader = ShardReader(shards)
    losses: list[float] = []
    with ServiceClient(dtype="float32", device="cpu", checkpoint_dir=out / "checkpoints", alpha=32.0) as service:
        client = service.create_lora_training_client(str(model), rank=4, seed=3)
        batches = [
            order[i : i + 8]
            for order in (row_order(len(reader), 0, epoch) for epoch in range(2))
            for i in range(0, len(order), 8)
        ]
        for step, rows in enumerate(batches):
            data = [reader[int(row)] for row in rows]
            output = client.forward_backward(data, "cross_entropy").result()
            client.optim_step(AdamParams(learning_rate=learning_rate_at(step, len(batches), 5e-3, config))).result()
            weight = sum(float(datum.loss_fn_inputs["weights"].to_numpy().sum()) for datum in data)
            losses.append(output.metrics["loss:sum"] / weight)
        client.save_state("final").result()
        client.save_weights_for_sampler("final").result()
    return losses


def test_it_trains_what_a_plain_loop_trains(finished: TrainResult, model: Path, shards: Path, tmp_path: Path) -> None:
    from tests.trainer.recipes.conftest import FINISHED

    config = config_of(model, shards, tmp_path / "run", **FINISHED)
    losses = plain_loop(model, shards, tmp_path, config)
    steps = [line for line in measured(finished.folder) if "train_mean_nll" in line]
    assert [line["train_mean_nll"] for line in steps] == pytest.approx(losses, rel=1e-6)
    plain = TrainResult(tmp_path, 0, 0, finished.checkpoint, False, {})
    assert adapter_of(plain) == adapter_of(finished)


def test_metrics_have_the_documented_names_and_count_everything(finished: TrainResult, shards: Path) -> None:
    reader = ShardReader(shards)
    per_epoch = math.ceil(len(reader) / 8)
    steps = [line for line in measured(finished.folder) if "train_mean_nll" in line]
    assert [line["step"] for line in steps] == list(range(1, 2 * per_epoch + 1))
    assert [line["epoch"] for line in steps] == [0] * per_epoch + [1] * per_epoch
    assert {"learning_rate", "num_tokens", "num_loss_tokens", "num_sequences", "progress"} <= set(steps[0])
    assert sum(line["num_tokens"] for line in steps) == 2 * int(reader.lengths.sum()) == finished.tokens
    assert sum(line["num_loss_tokens"] for line in steps) == 2 * int(reader.num_trained.sum())
    assert sum(line["num_sequences"] for line in steps) == 2 * len(reader)
    assert steps[-1]["train_mean_nll"] < steps[0]["train_mean_nll"] - 0.5
    assert "time/total" in lines_of(finished.folder / "metrics.jsonl")[1]


def test_held_out_loss_and_bits_per_byte_are_those_of_a_plain_sum(
    finished: TrainResult, model: Path, shards: Path
) -> None:
    evaluations = [line for line in measured(finished.folder) if "test/nll" in line]
    assert [line["step"] for line in evaluations] == [0, 3, 6, 9, finished.steps]
    assert evaluations[-1]["test/nll"] < evaluations[0]["test/nll"] - 0.5
    tokenizer = get_tokenizer(model)
    nll = weight = bits = size = 0.0
    with ServiceClient(dtype="float32", device="cpu", checkpoint_dir=finished.folder / "checkpoints") as service:
        client = service.create_sampling_client(model_path=finished.checkpoint.sampler_path)
        for datum in ShardReader(shards, "eval"):
            targets = datum.loss_fn_inputs["target_tokens"].to_numpy()
            whole = datum.model_input.append_int(int(targets[-1]))
            logprobs = client.compute_logprobs(whole).result()[1:]
            for target, w, logprob in zip(
                targets.tolist(), datum.loss_fn_inputs["weights"].to_numpy().tolist(), logprobs, strict=True
            ):
                nll, weight = nll - w * logprob, weight + w
                if target not in tokenizer.control_ids:
                    bits += -w * logprob / math.log(2)
                    size += w * len(tokenizer.token_bytes(target))
    assert evaluations[-1]["test/nll"] == pytest.approx(nll / weight, rel=1e-4)
    assert evaluations[-1]["test/bits_per_byte"] == pytest.approx(bits / size, rel=1e-4)


def test_only_the_newest_checkpoints_are_kept(finished: TrainResult) -> None:
    listed = lines_of(finished.folder / "checkpoints.jsonl")
    assert [line["name"] for line in listed] == ["step-000010", "final"]
    on_disk = sorted(
        path.parent.name for path in (finished.folder / "checkpoints").rglob("weights/*/adapter_config.json")
    )
    assert on_disk == ["final", "step-000010"]


def test_samples_are_kept_with_what_the_renderer_parsed(finished: TrainResult, model: Path) -> None:
    samples = lines_of(finished.folder / "samples.jsonl")
    assert [line["step"] for line in samples] == [0, 4, 8, finished.steps]
    for line in samples:
        assert line["prompt"] == "What is 2 + 3?"
        assert line["message"]["role"] == "assistant"
        assert line["termination"] in ("stop_sequence", "eos", "length", "malformed")
    assert samples[0]["text"] != samples[-1]["text"]


def test_a_finished_run_is_left_alone(finished: TrainResult, model: Path, shards: Path) -> None:
    from tests.trainer.recipes.conftest import FINISHED

    before = {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()}
    again = run(model, shards, finished.folder, **FINISHED)
    assert again.was_finished
    assert again.checkpoint == finished.checkpoint
    assert {path: path.read_bytes() for path in finished.folder.rglob("*") if path.is_file()} == before


def test_a_changed_configuration_is_refused_by_key(finished: TrainResult, model: Path, shards: Path) -> None:
    from tests.trainer.recipes.conftest import FINISHED

    with pytest.raises(UserError, match=r"learning_rate: 0.005 -> 0.001"):
        run(model, shards, finished.folder, **{**FINISHED, "learning_rate": 1e-3})
    with pytest.raises(UserError, match=r"lora.rank: 4 -> 8; lora.seed: 3 -> 0"):
        run(model, shards, finished.folder, **{**FINISHED, "lora": {"rank": 8}})


def test_a_run_that_never_began_may_be_configured_anew(
    model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(MissingExtraError, match="wandb"):
        run(model, shards, tmp_path / "run", trackers=["wandb"], max_steps=1)
    assert run(model, shards, tmp_path / "run", max_steps=1).steps == 1
    assert json.loads((tmp_path / "run" / "config.json").read_text())["trackers"] == []


def test_other_rows_in_the_same_folder_are_refused(model: Path, tmp_path: Path) -> None:
    shards = write_shards(tmp_path / "shards", rows=12)
    run(model, shards, tmp_path / "run")
    import shutil

    shutil.rmtree(shards)
    write_shards(shards, rows=13)
    with pytest.raises(UserError, match="shards_fingerprint"):
        run(model, shards, tmp_path / "run")


def test_overwrite_begins_again(model: Path, shards: Path, tmp_path: Path) -> None:
    first = run(model, shards, tmp_path / "run", max_steps=2)
    again = train_from_shards(config_of(model, shards, tmp_path / "run", max_steps=1), overwrite=True)
    assert (first.steps, again.steps) == (2, 1)
    assert [line["step"] for line in measured(again.folder)] == [0, 1, 1]
    assert len(adapter_of(again)) >= 3


def test_foreign_folders_are_not_touched(model: Path, shards: Path, tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"thesis\.txt"):
        train_from_shards(config_of(model, shards, tmp_path), overwrite=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_batches_by_tokens_and_steps_beyond_one_epoch(model: Path, shards: Path, tmp_path: Path) -> None:
    reader = ShardReader(shards)
    limit = int(reader.lengths.max()) * 2
    result = run(model, shards, tmp_path / "run", batch_size=None, batch_tokens=limit, max_steps=40, eval_rows=2)
    steps = [line for line in measured(result.folder) if "train_mean_nll" in line]
    assert result.steps == len(steps) == 40
    assert steps[-1]["epoch"] >= 1
    assert max(line["num_tokens"] for line in steps) <= limit
    assert max(line["num_sequences"] for line in steps) > 1
    one_epoch = [line for line in steps if line["epoch"] == 0]
    assert sum(line["num_tokens"] for line in one_epoch) == int(reader.lengths.sum())


def test_a_budget_below_the_longest_row_names_it(model: Path, shards: Path, tmp_path: Path) -> None:
    reader = ShardReader(shards)
    row = reader.row(int(reader.lengths.argmax())).provenance
    with pytest.raises(UserError, match=rf"batch_tokens: expected at least {reader.lengths.max()}.*:{row.line}; got 5"):
        run(model, shards, tmp_path / "run", batch_size=None, batch_tokens=5)


def test_held_out_rows_of_another_folder(model: Path, shards: Path, tmp_path: Path) -> None:
    other = write_shards(tmp_path / "other", "heldout_chat.jsonl", rows=5, eval_fraction=0.0)
    result = run(model, shards, tmp_path / "run", max_steps=1, eval_shards=str(other))
    counted = measured(result.folder)[0]["test/num_loss_tokens"]
    assert counted == int(ShardReader(other, None).num_trained.sum())


def test_weights_count(model: Path, tmp_path: Path) -> None:
    """Rows whose weights sum to 1 count alike, whatever their lengths."""
    plain, mean = (
        write_shards(tmp_path / weights, rows=8, weights=weights, eval_fraction=0.0) for weights in ("none", "mean")
    )
    losses = []
    for shards in (plain, mean):
        line = measured(run(model, shards, tmp_path / f"run-{shards.name}", max_steps=1).folder)[0]
        losses.append(line["train_mean_nll"])
    with ServiceClient(dtype="float32", device="cpu", checkpoint_dir=tmp_path) as service:
        client = service.create_lora_training_client(str(model), rank=4, seed=3)
        rows = list(ShardReader(plain))
        outputs = client.forward(rows, "cross_entropy").result().loss_fn_outputs
    nll = [
        -out["logprobs"].to_numpy()[datum.loss_fn_inputs["weights"].to_numpy() > 0]
        for datum, out in zip(rows, outputs, strict=True)
    ]
    assert losses[0] == pytest.approx(float(np.concatenate(nll).mean()), rel=1e-5)
    assert losses[1] == pytest.approx(float(np.mean([part.mean() for part in nll])), rel=1e-5)


def test_config_json_holds_the_configuration_and_what_follows_from_it(finished: TrainResult) -> None:
    written = json.loads((finished.folder / "config.json").read_text(encoding="utf-8"))
    assert written["epochs"] == 2
    assert written["lora"]["rank"] == 4
    assert written["facts"]["peak_learning_rate"] == 5e-3
    assert len(written["facts"]["tokenizer_sha256"]) == 64

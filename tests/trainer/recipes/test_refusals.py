"""What is refused before the first step, and what stops a run: with the place, the expectation and the value."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from datasets_io import Provenance, RowLayout, ShardReader, ShardWriter, datum_to_row
from renderers import (
    Datum,
    EncodedTextChunk,
    ImageChunk,
    MissingExtraError,
    ModelInput,
    OptionError,
    UserError,
    get_tokenizer,
)
from tests.datasets_io.shard_samples import rows_of, run_spec, save_manifest
from tests.trainer.recipes.run_samples import TOKENIZER, measured, run, write_model, write_shards
from trainer.recipes import DivergedError
from trainer.recipes.run_folder import RunFolder


def test_shards_of_another_tokenizer_name_both(model: Path, tmp_path: Path) -> None:
    other = str(TOKENIZER.parent / "tiny-headers")
    shards = write_shards(tmp_path / "shards", rows=4, model=other, eval_fraction=0.0)
    with pytest.raises(UserError) as refused:
        run(model, shards, tmp_path / "run")
    text = str(refused.value)
    assert str(shards) in text
    assert str(model) in text
    assert get_tokenizer(other).fingerprint[:12] in text
    assert get_tokenizer(model).fingerprint[:12] in text
    assert not (tmp_path / "run").exists()


def test_shards_with_images_name_the_row_and_the_model(model: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    text = ModelInput([EncodedTextChunk([1, 2, 3])])
    image = ModelInput([EncodedTextChunk([1]), ImageChunk(b"", "png", 2, "cat.png")])
    inputs = {"target_tokens": [2, 3, 4], "weights": [0.0, 1.0, 1.0]}
    rows = [
        datum_to_row(Datum(prompt, inputs), Provenance("album.jsonl", line)) for line, prompt in ((1, text), (2, image))
    ]
    with ShardWriter(shards, layout=RowLayout.of(rows)) as writer:
        writer.write_rows(rows)
    manifest = save_manifest(shards, [writer])
    run_of_it = run_spec(tokenizer_sha256=get_tokenizer(model).fingerprint)
    manifest.model_copy(update={"run": run_of_it}).save(shards)
    with pytest.raises(UserError, match=r"album.jsonl:2 holds an image") as refused:
        run(model, shards, tmp_path / "run")
    assert str(model) in str(refused.value)


def test_rows_longer_than_the_context_are_named(tmp_path: Path) -> None:
    model = write_model(tmp_path / "short", max_position_embeddings=24)
    shards = write_shards(tmp_path / "shards", rows=12, eval_fraction=0.0)
    reader = ShardReader(shards)
    line = reader.row(int(reader.lengths.argmax())).provenance.line
    with pytest.raises(UserError, match=rf"at most 24 tokens.*:{line} has {reader.lengths.max()}"):
        run(model, shards, tmp_path / "run")


def test_a_loss_that_is_nan_names_its_rows(shards: Path, tmp_path: Path) -> None:
    """One token's embedding is broken, so exactly the rows that hold it have no loss."""
    import torch
    from transformers import AutoModelForCausalLM

    reader = ShardReader(shards)
    tokens = [set(reader.tokens(row).tolist()) for row in range(len(reader))]
    row, rare = next(
        (row, token)
        for row in range(3, len(reader))
        for token in sorted(tokens[row])
        if sum(token in others for others in tokens) == 1
    )
    model = write_model(tmp_path / "model", tie_word_embeddings=False)
    module = AutoModelForCausalLM.from_pretrained(model)
    with torch.no_grad():
        module.get_input_embeddings().weight[rare] = float("nan")
    module.save_pretrained(model)
    place = f"{reader.row(row).provenance.source}:{reader.row(row).provenance.line}"
    bad_step = row // 3 + 1
    with pytest.raises(DivergedError) as stopped:
        run(model, shards, tmp_path / "run", save_every=1, shuffle=False, batch_size=3)
    assert f"step {bad_step}: the loss is NaN or infinite; rows {place}. Nothing" in str(stopped.value)
    # What was good stays: the checkpoint before, and a page about the run.
    with RunFolder(tmp_path / "run") as folder:
        assert folder.checkpoints()[-1].step == bad_step - 1
        assert folder.report_path.exists()
    assert measured(tmp_path / "run")[-1]["step"] == bad_step - 1


def test_shards_without_rows_to_train_on(model: Path, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    shards.mkdir()
    with ShardWriter(shards, split="eval") as writer:
        writer.write_rows(rows_of([5]))
    save_manifest(shards, [writer])
    with pytest.raises(UserError, match="expected a split train; got eval"):
        run(model, shards, tmp_path / "run")


def test_a_model_of_unknown_width_needs_a_rate(model: Path, shards: Path, tmp_path: Path) -> None:
    (config := tmp_path / "model").mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        (config / file).write_bytes((model / file).read_bytes())
    with pytest.raises(UserError, match="learning_rate: expected a value"):
        run(config, shards, tmp_path / "run", learning_rate=None)


def test_what_the_server_decides_is_not_configured(model: Path, shards: Path, tmp_path: Path, monkeypatch) -> None:
    from tests.trainer.recipes.run_samples import config_of
    from trainer.recipes import open_service

    for change, name in (({"lora": {"alpha": 8.0}, "dtype": "auto", "device": "auto"}, "lora.alpha"), ({}, "dtype")):
        config = config_of(model, shards, tmp_path, base_url="http://127.0.0.1:9", **change)
        with pytest.raises(OptionError, match=f"{name}: expected"):
            open_service(config, tmp_path)


def test_a_server_needs_the_sdk(model: Path, shards: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tinker", None)
    with pytest.raises(MissingExtraError, match=r"datumloom\[remote\]"):
        run(model, shards, tmp_path / "run", base_url="http://127.0.0.1:9")


def test_two_runs_do_not_share_a_folder(model: Path, shards: Path, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setattr("datasets_io.folder_lock._SECONDS_TO_WAIT", 0.0)
    with RunFolder(tmp_path / "run"), pytest.raises(UserError, match="another run"):
        run(model, shards, tmp_path / "run")


def test_a_damaged_file_is_named(model: Path, shards: Path, tmp_path: Path) -> None:
    run(model, shards, tmp_path / "run", max_steps=1)
    (tmp_path / "run" / "checkpoints.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match=r"checkpoints\.jsonl"):
        run(model, shards, tmp_path / "run", max_steps=1)
    (tmp_path / "run" / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json: expected JSON"):
        run(model, shards, tmp_path / "run", max_steps=1)
    assert json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])["step"] == 0

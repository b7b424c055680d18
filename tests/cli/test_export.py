"""`datumloom export` of shards and of a trained adapter, as a user runs it."""

from __future__ import annotations

import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def run(repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `shards` and a short training run."""
    pytest.importorskip("torch", reason="torch (extra `train`) is not installed")
    folder = tmp_path_factory.mktemp("export")
    model = str(repository / "fixtures" / "tiny-chat")
    chats = str(repository / "fixtures" / "conversations" / "prompt_completion.jsonl")
    datumloom(repository, "render", chats, "--model", model, "--out", str(folder / "shards"), "--quiet")
    settings = ["max_steps=2", "batch_size=4", "lora.rank=4", "lora.train_unembed=false", "learning_rate=1e-2"]
    datumloom(repository, "train", str(folder / "shards"), "--model", model, "--out", str(folder / "run"), *settings)
    return folder


def datumloom(repository: Path, *arguments: str, code: int = 0) -> str:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(repository)}
    command = [sys.executable, str(repository / "cli.py"), *arguments]
    done = subprocess.run(command, cwd=repository, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr if code else done.stdout


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::FutureWarning")  # peft speaks to transformers in a way that is to change
def test_an_adapter_is_merged_packed_or_refused(repository: Path, run: Path) -> None:
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    said = datumloom(repository, "export", str(run / "run"), "--out", str(run / "merged"))
    assert "merged in" in said
    datumloom(repository, "export", str(run / "run"), "--out", str(run / "adapter.tar.gz"), "--as", "archive")
    with tarfile.open(run / "adapter.tar.gz") as archive:
        archive.extractall(run / "adapter", filter="data")

    tokens = torch.arange(3, 40)[None]
    merged = AutoModelForCausalLM.from_pretrained(run / "merged", dtype=torch.float32)
    base = AutoModelForCausalLM.from_pretrained(repository / "fixtures" / "tiny-chat", dtype=torch.float32)
    with torch.no_grad():
        plain = base(tokens).logits
        adapted = PeftModel.from_pretrained(base, str(run / "adapter"))(tokens).logits
        written = merged(tokens).logits
    assert (adapted - plain).abs().max() > 0.01
    # The base is stored in half precision, and `auto` keeps that for what is merged.
    assert (adapted - written).abs().max() < 0.1 * (adapted - plain).abs().max()

    for arguments, words in (
        (["--out", str(run / "merged")], "merged"),
        (["--out", str(run / "x"), "--split", "train"], "--split: expected with shards only"),
        (["--out", str(run / "x"), "--as", "archive", "--dtype", "float32"], "--dtype: expected with --as merged only"),
    ):
        assert words in datumloom(repository, "export", str(run / "run"), *arguments, code=2)


@pytest.mark.slow
def test_shards_become_parquet(repository: Path, run: Path) -> None:
    from pyarrow import parquet

    out = run / "train.parquet"
    assert "rows" in datumloom(repository, "export", str(run / "shards"), "--out", str(out))
    assert {"input_ids", "labels", "weights"} <= set(parquet.read_schema(out).names)
    assert "does not exist yet" in datumloom(repository, "export", str(run / "shards"), "--out", str(out), code=2)
    refused = datumloom(repository, "export", str(run / "shards"), "--out", str(run / "y"), "--as", "archive", code=2)
    assert "--as: expected with a training run only" in refused

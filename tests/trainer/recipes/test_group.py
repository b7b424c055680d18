"""`train-from-shards` under torchrun: two processes give the adapter and the losses of one.

Tolerance: float32, 5e-5 of a matrix's largest weight after six steps. An eps that is not tiny keeps a gradient that is
nothing but rounding from becoming a whole step.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load_file

from tests.trainer.recipes.run_samples import ROOT, lines_of, run

COMMAND = "import sys; sys.argv[0] = 'train-from-shards'; from cli import train_from_shards; train_from_shards()"
OPTIONS = {"batch_size": 8, "learning_rate": 5e-3, "lora.rank": 4, "lora.seed": 3, "adam.eps": 1e-3}


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def torchrun(*arguments):
    place = ["--master-addr", "127.0.0.1", "--master-port", str(free_port()), "--nproc-per-node", "2"]
    launch = [sys.executable, "-m", "torch.distributed.run", *place, "--no-python", sys.executable, "-c", COMMAND]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(
        [*launch, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=200, check=False
    )


def weights_of(folder):
    (path,) = [p for p in folder.rglob("adapter_model.safetensors") if p.parts[-3:-1] == ("weights", "final")]
    return load_file(path)


@pytest.mark.slow
def test_two_processes_train_the_same_adapter(model, shards, tmp_path):
    alone = run(model, shards, tmp_path / "one", adam={"eps": 1e-3})
    settings = [f"{key}={value}" for key, value in {**OPTIONS, "dtype": "float32", "device": "cpu"}.items()]
    ended = torchrun(shards, "--model", model, "--out", tmp_path / "two", *settings, "--quiet", "shard_base=true")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("6 steps") == 1  # the leader alone speaks
    expected, found = weights_of(alone.folder), weights_of(tmp_path / "two")
    assert expected.keys() == found.keys()
    for name, values in expected.items():
        np.testing.assert_allclose(found[name], values, rtol=0, atol=5e-5 * np.abs(values).max(), err_msg=name)
    losses = [
        [line["train_mean_nll"] for line in lines_of(folder / "metrics.jsonl") if "train_mean_nll" in line]
        for folder in (alone.folder, tmp_path / "two")
    ]
    assert len(losses[0]) == 6
    assert losses[1] == pytest.approx(losses[0], rel=1e-5)


@pytest.mark.slow
def test_a_server_and_torchrun_exclude_each_other(model, shards, tmp_path):
    ended = torchrun(shards, "--model", model, "--out", tmp_path / "run", "--base-url", "http://127.0.0.1:9")
    assert ended.returncode != 0
    assert "base_url: expected none under torchrun" in ended.stderr

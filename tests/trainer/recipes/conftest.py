"""One model and one set of shards for all tests here; runs go into each test's own folder."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

torch = pytest.importorskip("torch", reason="training in process needs the extra `train`")
pytest.importorskip("transformers", reason="training in process needs the extra `train`")

from tests.trainer.recipes.run_samples import write_model, write_shards  # noqa: E402
from trainer.recipes import TrainResult  # noqa: E402
from trainer.recipes import train_from_shards as train  # noqa: E402


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="session")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shards(tmp_path_factory.mktemp("data") / "shards")


@pytest.fixture(scope="session")
def finished(model: Path, shards: Path, tmp_path_factory: pytest.TempPathFactory) -> TrainResult:
    """A run over two epochs with held-out rows, samples and several checkpoints. Not to be changed."""
    from tests.trainer.recipes.run_samples import config_of

    out = tmp_path_factory.mktemp("finished") / "run"
    return train(config_of(model, shards, out, **FINISHED))


FINISHED = {
    "epochs": 2,
    "warmup_steps": 2,
    "schedule": "cosine",
    "save_every": 2,
    "keep": 2,
    "eval_every": 3,
    "sample": {"prompts": ["What is 2 + 3?"], "every": 4, "max_tokens": 6, "temperature": 1.0},
}

"""A tiny random model with a tokenizer on the disk, and clients on it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the in-process service needs the extra `train`")
transformers = pytest.importorskip("transformers", reason="the in-process service needs the extra `train`")

from renderers import get_tokenizer  # noqa: E402
from trainer import Datum, ModelInput, ServiceClient, TrainingClient  # noqa: E402
from trainer.clients import service_client  # noqa: E402

TOKENIZER = Path(__file__).parents[3] / "fixtures" / "tiny-headers"


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True)
def _own_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Default services keep their checkpoints in the test's folder and end with the test."""
    monkeypatch.setenv("DATUMLOOM_HOME", str(tmp_path / "home"))
    yield
    service_client._services.close_all()


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny random model that speaks the fixture's tokenizer."""
    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.AutoConfig.for_model(
        "qwen3",
        vocab_size=get_tokenizer(TOKENIZER).vocab_size,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        max_position_embeddings=256,
        eos_token_id=2,
    )
    torch.manual_seed(0)
    transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32).save_pretrained(folder)
    for path in TOKENIZER.iterdir():
        if path.name != "generation_config.json":
            shutil.copy(path, folder)
    return str(folder)


@pytest.fixture
def client(model: str, tmp_path: Path) -> Iterator[ServiceClient]:
    with ServiceClient(base_model=model, checkpoint_dir=tmp_path / "checkpoints") as made:
        yield made


@pytest.fixture
def training(client: ServiceClient, model: str) -> TrainingClient:
    return client.create_lora_training_client(model, rank=4, seed=1).result(60)


def random_datum(length: int, seed: int, **inputs: Any) -> Datum:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, 500, length + 1)
    inputs = inputs or {"weights": np.ones(length)}
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], **inputs})


@pytest.fixture
def datum() -> Callable[..., Datum]:
    return random_datum


@pytest.fixture
def data() -> list[Datum]:
    return [random_datum(length, seed) for seed, length in enumerate((7, 20))]

"""A tiny random model on the disk, and services on it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the service needs the extra `train`")
transformers = pytest.importorskip("transformers", reason="the service needs the extra `train`")

from renderers import Datum, ModelInput  # noqa: E402
from trainer.protocol import LoraConfig  # noqa: E402
from trainer.service import Service, ServiceOptions  # noqa: E402

VOCAB = 96
_FAMILIES: dict[str, dict[str, Any]] = {
    "qwen3": {"head_dim": 16},
    "llama": {"tie_word_embeddings": True},
    "phi3": {"pad_token_id": 0},
    "qwen3_moe": {"head_dim": 16, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64},
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny_module(family: str) -> Any:
    config = transformers.AutoConfig.for_model(
        family,
        **{
            "vocab_size": VOCAB,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 64,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "tie_word_embeddings": False,
            **_FAMILIES[family],
        },
    )
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise) if parameter.dim() == 1 else parameter.copy_(0.15 * noise)
    return module.eval()


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """model_folder(family): a tiny model saved once per run."""
    saved: dict[str, Path] = {}

    def folder(family: str = "qwen3") -> Path:
        if family not in saved:
            saved[family] = tmp_path_factory.mktemp(family)
            tiny_module(family).save_pretrained(saved[family])
        return saved[family]

    return folder


@pytest.fixture
def module_of() -> Callable[[str], Any]:
    return tiny_module


@pytest.fixture
def make_service(model_folder: Callable[[str], Path], tmp_path: Path) -> Iterator[Callable[..., Service]]:
    """make_service(family, **options): a service whose one model is called `tiny`; closed after the test."""
    made: list[Service] = []

    def make(family: str = "qwen3", **options: Any) -> Service:
        options = {"checkpoint_dir": tmp_path / "checkpoints", **options}
        made.append(Service(ServiceOptions.of(models={"tiny": model_folder(family)}, **options)))
        return made[-1]

    yield make
    for service in made:
        service.close(timeout=20)


@pytest.fixture
def make_run() -> Callable[..., str]:
    """make_run(service, **lora): a new run in a new session, ready."""

    def make(service: Service, session_id: str | None = None, **lora: Any) -> str:
        session_id = session_id or service.create_session().session_id
        config = LoraConfig(**{"rank": 4, "seed": 1, **lora})
        return service.create_model(session_id, "tiny", config).future.result(60)

    return make


def random_datum(length: int, seed: int) -> Datum:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, length + 1)
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], "weights": rng.random(length)})


@pytest.fixture
def data() -> list[Datum]:
    return [random_datum(length, seed) for seed, length in enumerate((7, 1, 20))]

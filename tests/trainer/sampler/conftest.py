"""Tiny random models and adapters for the sampler."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the sampler needs the extra `train`")
transformers = pytest.importorskip("transformers", reason="the sampler needs the extra `train`")

from trainer.engine import BaseModel, Engine  # noqa: E402
from trainer.protocol import LoraConfig  # noqa: E402
from trainer.sampler import AdapterSnapshot, Sampler  # noqa: E402

VOCAB = 320  # not a multiple of the sampler's block
_COMMON = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
_LONGROPE = {
    "rope_type": "longrope", "rope_theta": 10000.0, "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.5, 3.0, 3.5], "original_max_position_embeddings": 24, "factor": 4.0,
}  # fmt: skip
_CAPPED = {"head_dim": 16, "sliding_window": 5, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "qwen3": ("qwen3", {"head_dim": 16}),
    "llama": ("llama", {"attention_bias": True, "tie_word_embeddings": True}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "phi3-longrope": ("phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 24}),
    "gemma2": ("gemma2", _CAPPED),
    "qwen3-moe": (
        "qwen3_moe",
        {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24, "head_dim": 16},
    ),
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_module(name: str, **settings: Any) -> Any:
    """Weights large enough that the next token depends on the whole past."""
    model_type, own = FAMILIES[name]
    config = transformers.AutoConfig.for_model(model_type, **{**_COMMON, **own, **settings})
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise) if parameter.dim() == 1 else parameter.copy_(0.15 * noise)
    return module.eval()


@pytest.fixture
def make_module() -> Callable[..., Any]:
    return build_module


@pytest.fixture(scope="session")
def base() -> BaseModel:
    return BaseModel.from_module(build_module("qwen3"))


@pytest.fixture
def make_sampler(base: BaseModel) -> Callable[..., Sampler]:
    """make_sampler(**options) over the qwen3 base, with a small pool; nothing stops but what a test asks for."""

    def make(**options: Any) -> Sampler:
        return Sampler(base, **{"max_batch": 8, "cache_tokens": 1024, "end_of_sequence": (), **options})

    return make


@pytest.fixture
def engine(base: BaseModel) -> Engine:
    return Engine(base)


@pytest.fixture
def new_adapter(engine: Engine) -> Callable[..., str]:
    """An adapter whose B is not zero, so that it changes what is sampled."""

    def make(seed: int, **settings: Any) -> str:
        adapter_id = engine.create_adapter(LoraConfig(rank=4, seed=seed, **settings))
        generator = torch.Generator().manual_seed(1000 + seed)
        for name, values in engine.adapter(adapter_id).named_parameters().items():
            if name.endswith("lora_B"):
                values.copy_(0.1 * torch.randn(values.shape, generator=generator))
        engine.adapter(adapter_id).version += 1
        return adapter_id

    return make


@pytest.fixture
def snapshot(engine: Engine) -> Callable[[str], AdapterSnapshot]:
    return lambda adapter_id: AdapterSnapshot.of(engine, adapter_id)


@pytest.fixture
def prompt() -> Callable[[int, int], list[int]]:
    def make(length: int, seed: int = 0) -> list[int]:
        return np.random.default_rng(seed).integers(3, VOCAB, length).tolist()

    return make

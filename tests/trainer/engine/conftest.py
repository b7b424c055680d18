"""Tiny random models, random datums, and the plain reference: one sequence at a time through the transformers module.

The reference knows no packing, no fusing, no flat buffers: it runs the module with W replaced by W + scale * B A and
lets autograd do the rest, in any dtype.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="the engine needs the extra `train`")
transformers = pytest.importorskip("transformers", reason="the engine needs the extra `train`")

from renderers import Datum, ModelInput  # noqa: E402
from trainer.engine import Adapter, BaseModel, Engine  # noqa: E402
from trainer.protocol import LoraConfig  # noqa: E402

VOCAB = 128
_COMMON = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
_MOE = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
_LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 10000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}
_LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3],
    "long_factor": [2.0, 2.5, 3.0, 3.5],
    "original_max_position_embeddings": 16,
    "factor": 4.0,
}
_YARN = {"rope_type": "yarn", "rope_theta": 1e4, "factor": 4.0, "original_max_position_embeddings": 16}
# name -> (model type, settings beyond the common ones)
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {"rope_parameters": _LLAMA3, "attention_bias": True, "mlp_bias": True}),
    "llama-tied": ("llama", {"tie_word_embeddings": True}),
    "llama-yarn": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "rope_theta": 1e4,
                "factor": 4.0,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "llama-dynamic": (
        "llama",
        {"max_position_embeddings": 16, "rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
    ),
    "qwen2": ("qwen2", {}),
    "qwen2-window": ("qwen2", {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1}),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "mistral": ("mistral", {"sliding_window": 6}),
    "phi3": ("phi3", {}),
    "phi3-longrope": ("phi3", {"rope_parameters": _LONGROPE, "original_max_position_embeddings": 16}),
    "phi3-partial": (
        "phi3",
        {"rope_parameters": {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}},
    ),
    "gemma": ("gemma", {"head_dim": 16}),
    "gemma2": (
        "gemma2",
        {"head_dim": 16, "sliding_window": 5, "final_logit_softcapping": 3.0, "attn_logit_softcapping": 2.0},
    ),
    "gemma3": ("gemma3_text", {"head_dim": 16, "sliding_window": 5}),
    "mixtral": ("mixtral", {"num_local_experts": 4, "num_experts_per_tok": 2}),
    "qwen2-moe": ("qwen2_moe", {**_MOE, "shared_expert_intermediate_size": 24}),
    "qwen3-moe": ("qwen3_moe", {**_MOE, "head_dim": 16, "norm_topk_prob": True}),
}
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "olmo2": ("olmo2", {}),
    "gpt2": ("gpt2", {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}),
    "cohere": ("cohere", {}),
    "bloom": ("bloom", {"n_head": 4}),
}


@pytest.fixture(autouse=True, scope="session")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def build_module(name: str, dtype: Any = torch.float32, **settings: Any) -> Any:
    """A random transformers module: weights large enough that every term of the formula shows."""
    model_type, own = {**FAMILIES, **OTHERS}[name]
    config = transformers.AutoConfig.for_model(model_type, **{**_COMMON, **own, **settings})
    module = transformers.AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(0.1 * noise) if parameter.dim() == 1 else parameter.copy_(0.15 * noise)
    return module.to(dtype).eval()


@pytest.fixture
def make_module() -> Callable[..., Any]:
    return build_module


@pytest.fixture
def make_engine() -> Callable[..., Engine]:
    """Engine over a fresh tiny model: make_engine(family, dtype, **engine options)."""

    def make(name: str = "qwen3", dtype: Any = torch.float32, **options: Any) -> Engine:
        return Engine(BaseModel.from_module(build_module(name, dtype), name=name), **options)

    return make


@pytest.fixture
def wake() -> Callable[[Adapter, int], None]:
    """Gives B values: with B zero, A has no gradient and nothing distinguishes adapters."""

    def fill(adapter: Adapter, seed: int = 0) -> None:
        generator = torch.Generator().manual_seed(1000 + seed)
        for name, values in adapter.named_parameters().items():
            if name.endswith("lora_B"):
                values.copy_(0.02 * torch.randn(values.shape, generator=generator))
        adapter.version += 1

    return fill


def random_datum(length: int, seed: int, **inputs: Any) -> Datum:
    rng = np.random.default_rng(seed)
    tokens = rng.integers(0, VOCAB, length + 1)
    if not inputs:
        inputs = {"weights": rng.normal(size=length)}
    return Datum(ModelInput.from_ints(tokens[:-1]), {"target_tokens": tokens[1:], **inputs})


def rl_datum(length: int, seed: int, **more: Any) -> Datum:
    """Advantages of both signs (some zero) and logprobs near what a random model gives, so that clipping happens."""
    rng = np.random.default_rng(seed)
    advantages = rng.normal(size=length) * (rng.random(length) > 0.2)
    logprobs = -np.log(VOCAB) + 0.7 * rng.normal(size=length)
    return random_datum(length, seed, logprobs=logprobs, advantages=advantages, **more)


@pytest.fixture
def datum() -> Callable[..., Datum]:
    return random_datum


@pytest.fixture
def rl() -> Callable[..., Datum]:
    return rl_datum


@pytest.fixture
def data() -> list[Datum]:
    return [random_datum(length, seed) for seed, length in enumerate((7, 1, 20, 13))]


@dataclass
class Reference:
    """The plain loop: `run(data)` gives logprobs per datum, and gradients by the adapter's names."""

    module: Any
    values: dict[str, Any]
    scale: float

    def logprobs(self, datum: Datum) -> Any:
        """(N, K) of one datum, differentiable with respect to `values`."""
        parameters, modules = dict(self.module.named_parameters()), dict(self.module.named_modules())
        changed: dict[str, Any] = {}
        for name in {key.rsplit(".", 1)[0] for key in self.values}:
            a, b = self.values[f"{name}.lora_A"], self.values[f"{name}.lora_B"]
            key = f"{name}.weight" if f"{name}.weight" in parameters else name
            if key not in parameters:  # a tied head has no parameter of its own
                key = "lm_head.weight"
            weight = parameters.get(key, self.module.get_output_embeddings().weight)
            delta = self.scale * (b @ a)
            transposed = type(modules.get(name)).__name__ == "Conv1D"  # keeps (in, out)
            changed[key] = weight + (delta.T if transposed else delta)
        tokens = torch.tensor(datum.model_input.to_ints()).unsqueeze(0)
        call = {"input_ids": tokens, "use_cache": False}
        logits = torch.func.functional_call(self.module, changed, (), call, tie_weights=False).logits[0]
        targets = datum.loss_fn_inputs["target_tokens"].to_torch().view(len(logits), -1)
        wide = logits if logits.dtype == torch.float64 else logits.float()
        return wide.log_softmax(-1).gather(1, targets)

    def cross_entropy(self, data: list[Datum]) -> tuple[Any, list[Any]]:
        """Loss (backward done) and logprobs."""
        scored = [self.logprobs(d) for d in data]
        loss = -sum(
            (d.loss_fn_inputs["weights"].to_torch().view(lp.shape) * lp).sum()
            for d, lp in zip(data, scored, strict=True)
        )
        loss.backward()
        return loss.detach(), [lp.detach() for lp in scored]

    def gradient(self, name: str) -> Any:
        return self.values[name].grad


@pytest.fixture
def reference() -> Callable[..., Reference]:
    """reference(module before it was given away, adapter, dtype)."""

    def make(module: Any, adapter: Adapter, dtype: Any = torch.float32) -> Reference:
        plain = copy.deepcopy(module).to(dtype).eval().requires_grad_(False)
        plain.set_experts_implementation("eager")  # the grouped products know no float64
        values = {n: v.to(dtype, copy=True).requires_grad_() for n, v in adapter.named_parameters().items()}
        return Reference(plain, values, adapter.config.scale)

    return make


@pytest.fixture
def lora() -> Callable[..., LoraConfig]:
    def make(**settings: Any) -> LoraConfig:
        return LoraConfig(**{"rank": 4, "seed": 1, **settings})

    return make

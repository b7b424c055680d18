"""Greedy sampling against `generate`, family by family, several requests at once."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from trainer.engine import BaseModel  # noqa: E402
from trainer.protocol import SamplingParams  # noqa: E402
from trainer.sampler import Sampler  # noqa: E402

LENGTHS = (5, 1, 21, 9)


@pytest.mark.parametrize("family", ["qwen3", "llama", "mistral", "phi3-longrope", "gemma2", "qwen3-moe"])
def test_greedy_equals_generate(family, make_module, prompt):
    module = make_module(family)
    sampler = Sampler(BaseModel.from_module(make_module(family)), max_batch=3, cache_tokens=512, prefill_tokens=8)
    greedy = SamplingParams(max_tokens=14, temperature=0, stop=[])
    futures = [sampler.submit(prompt(n, n), greedy, num_samples=1 + n % 2) for n in LENGTHS]
    sampler.run_until_idle()
    for n, future in zip(LENGTHS, futures, strict=True):
        tokens = torch.tensor([prompt(n, n)])
        with torch.no_grad():
            made = module.generate(
                tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=14, do_sample=False, eos_token_id=None
            )
        for sequence in future.result().sequences:
            assert sequence.tokens == made[0, n:].tolist()
            assert sequence.stop_reason == "length"


def test_end_of_sequence_is_the_models_own(make_module, prompt):
    module = make_module("qwen3")
    module.generation_config.eos_token_id = [2, 7]
    sampler = Sampler(BaseModel.from_module(module), cache_tokens=256)
    assert set(sampler.end_of_sequence) == {2, 7}


@pytest.mark.parametrize("prepack", [True, False])
def test_bfloat16_logprobs_agree_with_forward(prepack, make_module, prompt):
    """Sampled paths diverge in bfloat16, so the sampled tokens themselves are scored by the module in float32."""
    base = BaseModel.from_module(make_module("qwen3").to(torch.bfloat16))
    sampler = Sampler(base, cache_tokens=256, prepack=prepack)
    done = sampler.sample(prompt(9), SamplingParams(max_tokens=40, seed=3, stop=[]))
    tokens = prompt(9) + done.sequences[0].tokens
    with torch.no_grad():
        logits = make_module("qwen3").to(torch.bfloat16).float()(torch.tensor([tokens])).logits[0]
    truth = logits.log_softmax(-1)[8:-1].gather(1, torch.tensor(tokens[9:]).unsqueeze(-1)).squeeze(-1)
    gaps = (truth - torch.tensor(done.sequences[0].logprobs)).abs()
    assert gaps.mean() < 0.03
    assert gaps.max() < 0.2

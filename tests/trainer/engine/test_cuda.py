"""The same numbers on a CUDA device; skipped where there is none."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from trainer.engine import AttentionSpec, BaseModel, Engine, SequenceBounds, packed_attention  # noqa: E402
from trainer.protocol import AdamParams  # noqa: E402

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device is visible")


@pytest.mark.parametrize("spec", [AttentionSpec(0.35), AttentionSpec(0.5, window=40)])
def test_varlen_equals_sdpa(spec):
    lengths = (5, 1, 130, 64)
    generator = torch.Generator().manual_seed(0)
    shapes = ((200, 8, 64), (200, 2, 64), (200, 2, 64))
    tensors = [torch.randn(s, generator=generator).to("cuda", torch.bfloat16) for s in shapes]
    bounds = SequenceBounds.of(lengths, "cuda")
    results = []
    for backend in ("varlen", "sdpa"):
        leaves = [x.clone().requires_grad_() for x in tensors]
        out = packed_attention(*leaves, bounds, spec, backend)
        out.backward(torch.ones_like(out))
        results.append([out.detach(), *(x.grad for x in leaves)])
    for got, want in zip(*results, strict=True):
        torch.testing.assert_close(got, want, rtol=0.05, atol=0.05)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "qwen2-moe"])
def test_float32_equals_the_cpu(family, make_module, data, lora, wake):
    results = []
    for device in ("cpu", "cuda"):
        engine = Engine(BaseModel.from_module(make_module(family).to(device)))
        adapter = engine.adapter(engine.create_adapter(lora(), "a"))
        wake(adapter)
        output = engine.forward_backward("a", data)
        grads = adapter.grads.cpu()
        results.append((output, grads, engine.optim_step("a", AdamParams()).metrics))
    (cpu, cpu_grads, cpu_step), (cuda, cuda_grads, cuda_step) = results
    assert cuda.metrics == pytest.approx(cpu.metrics, rel=1e-4, abs=1e-3)
    torch.testing.assert_close(cuda_grads, cpu_grads, rtol=1e-3, atol=1e-3)
    assert cuda_step["grad_norm"] == pytest.approx(cpu_step["grad_norm"], rel=1e-3)


def test_bfloat16_trains(make_module, datum, lora):
    engine = Engine(BaseModel.from_module(make_module("qwen3", torch.bfloat16).to("cuda")))
    engine.create_adapter(lora(), "a")
    losses = []
    for _ in range(20):
        losses.append(engine.forward_backward("a", [datum(30, 0, weights=[1.0] * 30)]).metrics["loss:sum"])
        engine.optim_step("a", AdamParams(learning_rate=1e-2))
    assert losses[-1] < 0.7 * losses[0]

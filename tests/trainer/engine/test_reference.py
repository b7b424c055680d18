"""The engine's numbers against the plain loop: float32 to 1e-5, bfloat16 no further from the truth than plain torch."""

from __future__ import annotations

import copy

import pytest

torch = pytest.importorskip("torch")
from trainer.engine import BaseModel, Engine  # noqa: E402


def _engine(module, lora, wake, **options):
    engine = Engine(BaseModel.from_module(module), **options)
    adapter_id = engine.create_adapter(lora())
    wake(engine.adapter(adapter_id))
    return engine, adapter_id


@pytest.mark.parametrize(
    "family", ["qwen3", "llama", "llama-tied", "phi3", "gemma2", "mistral", "mixtral", "qwen2-moe", "qwen3-moe"]
)
def test_float32_equals_plain_loop(family, make_module, data, reference, lora, wake):
    module = make_module(family)
    engine, adapter_id = _engine(copy.deepcopy(module), lora, wake)
    adapter = engine.adapter(adapter_id)
    truth = reference(module, adapter, torch.float64)
    loss, logprobs = truth.cross_entropy(data)
    output = engine.forward_backward(adapter_id, data)
    assert output.metrics["loss:sum"] == pytest.approx(float(loss), rel=1e-5, abs=1e-5)
    for got, want in zip(output.loss_fn_outputs, logprobs, strict=True):
        torch.testing.assert_close(got["logprobs"].to_torch(), want.squeeze(-1).float(), rtol=0, atol=1e-5)
    for name, gradient in adapter.named_gradients().items():
        want = truth.gradient(name).float()
        torch.testing.assert_close(gradient, want, rtol=0, atol=1e-5 * float(want.abs().max()) + 1e-6, msg=name)


def _distance(found, truth):
    """Relative distance of two lists of tensors, all taken together."""
    gap = sum(float((f.double() - t).square().sum()) for f, t in zip(found, truth, strict=True))
    return (gap / sum(float(t.square().sum()) for t in truth)) ** 0.5


@pytest.mark.parametrize("family", ["qwen3", "llama", "gemma2", "phi3"])
def test_bfloat16_is_no_further_than_plain(family, make_module, datum, reference, lora, wake):
    data = [datum(length, length) for length in (40, 25, 33, 57, 60)]
    module = make_module(family, torch.bfloat16)
    engine, adapter_id = _engine(copy.deepcopy(module), lora, wake)
    adapter = engine.adapter(adapter_id)
    names = list(adapter.named_parameters())
    truth, plain = (reference(module, adapter, dtype) for dtype in (torch.float64, torch.bfloat16))
    _, true_logprobs = truth.cross_entropy(data)
    _, plain_logprobs = plain.cross_entropy(data)
    output = engine.forward_backward(adapter_id, data)
    ours = [o["logprobs"].to_torch().unsqueeze(-1) for o in output.loss_fn_outputs]
    assert _distance(ours, true_logprobs) <= 1.1 * _distance(plain_logprobs, true_logprobs)
    true_grads, plain_grads = ([r.gradient(n) for n in names] for r in (truth, plain))
    our_grads = list(adapter.named_gradients().values())
    assert _distance(our_grads, true_grads) <= 1.1 * _distance(plain_grads, true_grads)

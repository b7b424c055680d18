"""Architectures without a family: their own module, packed or one sequence at a time, with the same gradients."""

from __future__ import annotations

import logging

import pytest

torch = pytest.importorskip("torch")
from trainer.engine import BaseModel, Engine  # noqa: E402


@pytest.mark.parametrize(
    ("family", "path"),
    [
        ("olmo2", "module-packed"),
        ("cohere", "module-packed"),
        ("gpt2", "module-packed"),
        ("bloom", "module-per-sequence"),
    ],
)
def test_matches_reference(family, path, make_module, data, reference, lora, wake, caplog):
    module = make_module(family)
    with caplog.at_level(logging.INFO, "trainer.engine.base_model"):
        base = BaseModel.from_module(make_module(family))
    assert base.path == path
    assert f"path {path}" in caplog.text
    engine = Engine(base)
    adapter_id = engine.create_adapter(lora())
    adapter = engine.adapter(adapter_id)
    wake(adapter)
    plain = reference(module, adapter)
    loss, logprobs = plain.cross_entropy(data)
    output = engine.forward_backward(adapter_id, data)
    assert output.metrics["loss:sum"] == pytest.approx(float(loss), abs=1e-4)
    for got, want in zip(output.loss_fn_outputs, logprobs, strict=True):
        torch.testing.assert_close(got["logprobs"].to_torch(), want.squeeze(-1), rtol=0, atol=1e-5)
    for name, gradient in adapter.named_gradients().items():
        torch.testing.assert_close(gradient, plain.gradient(name), rtol=1e-4, atol=1e-4, msg=name)


def test_the_known_family_runs_on_the_module_too(make_module, data, make_engine, lora, wake):
    fast = make_engine("mistral")
    slow = Engine(BaseModel.from_module(make_module("mistral"), prefer="module-packed"))
    assert (fast.base.path, slow.base.path) == ("decoder", "module-packed")
    outputs = []
    for engine in (fast, slow):
        adapter_id = engine.create_adapter(lora(train_unembed=False, rank=2))
        assert len(engine.adapter(adapter_id).named_parameters()) == 2 * 7 * 2
        outputs.append(engine.forward(adapter_id, data))
    for a, b in zip(*(o.loss_fn_outputs for o in outputs), strict=True):
        torch.testing.assert_close(a["logprobs"].to_torch(), b["logprobs"].to_torch(), rtol=0, atol=1e-5)


def test_a_layer_whose_weights_are_read_behind_its_back_gets_no_pair(make_module, lora, caplog):
    """As a fused kernel does with an inner matrix: calling is by-passed, so a pair there would train nothing."""
    module = make_module("gpt2")
    attention = module.transformer.h[0].attn
    projection = attention.c_proj

    class Direct(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = projection

        def forward(self, x):
            return x @ self.inner.weight + self.inner.bias

    attention.c_proj = Direct()
    engine = Engine(BaseModel.from_module(module))
    names = engine.adapter(engine.create_adapter(lora())).named_parameters()
    assert "transformer.h.0.attn.c_proj.inner.lora_A" not in names
    assert "transformer.h.1.attn.c_proj.lora_A" in names
    assert "no low-rank pair on transformer.h.0.attn.c_proj.inner: not called" in caplog.text

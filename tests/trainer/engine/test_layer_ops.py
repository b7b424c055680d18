"""Hand-written backward passes against autograd over the plain formula, in float64."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from torch.nn import functional  # noqa: E402

from trainer.engine.layer_ops import gated, rms_norm, rotate  # noqa: E402


def _compare(ours, plain, *shapes):
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=generator, dtype=torch.float64) for s in shapes]
    results = []
    for function in (ours, plain):
        leaf = inputs[0].clone().requires_grad_()
        out = function(leaf, *inputs[1:])
        out.backward(torch.linspace(-1, 1, out.numel(), dtype=torch.float64).view(out.shape))
        results.append((out.detach(), leaf.grad))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("shape", [(6, 16), (5, 3, 8)])
def test_rms_norm(shape):
    def plain(x, weight):
        return x * (x.square().mean(-1, keepdim=True) + 1e-3).rsqrt() * weight

    _compare(lambda x, w: rms_norm(x, w, 1e-3), plain, shape, shape[-1:])


@pytest.mark.parametrize("activation", ["silu", "gelu", "gelu_tanh"])
def test_gated(activation):
    def plain(x):
        gate, up = x.chunk(2, dim=-1)
        if activation == "silu":
            return functional.silu(gate) * up
        return functional.gelu(gate, approximate="tanh" if activation == "gelu_tanh" else "none") * up

    _compare(lambda x: gated(x, activation), plain, (7, 12))


@pytest.mark.parametrize("half", [4, 3])
def test_rotate(half):
    def plain(x, cos, sin):
        turned = torch.cat([-x[..., half : 2 * half], x[..., :half]], dim=-1)
        wide = [torch.cat([t, t], dim=-1) for t in (cos, sin)]
        return torch.cat([x[..., : 2 * half] * wide[0] + turned * wide[1], x[..., 2 * half :]], dim=-1)

    _compare(rotate, plain, (6, 2, 8), (6, 1, half), (6, 1, half))

"""The frozen products are the plain ones, whichever library runs them."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from trainer.engine.gemm import linear, product  # noqa: E402


@pytest.mark.parametrize("rows", [0, 1, 2, 33])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_equal_plain_products(rows, dtype):
    generator = torch.Generator().manual_seed(0)
    x, weight, bias, dy = (
        torch.randn(s, generator=generator).to(dtype) for s in ((rows, 24), (40, 24), (40,), (rows, 40))
    )
    limits = {"rtol": 0.02, "atol": 0.1} if dtype == torch.bfloat16 else {"rtol": 1e-5, "atol": 1e-5}
    torch.testing.assert_close(linear(x, weight), x @ weight.T, **limits)
    torch.testing.assert_close(linear(x, weight, bias), x @ weight.T + bias, **limits)
    torch.testing.assert_close(product(dy, weight), dy @ weight, **limits)
    columns = torch.cat([dy, dy], dim=1)[:, 40:]  # a slice of a wider matrix, as fused gradients are
    torch.testing.assert_close(product(columns, weight), dy @ weight, **limits)

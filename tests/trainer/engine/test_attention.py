"""Packed attention against the formula in float64, sequence by sequence."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from renderers import OptionError  # noqa: E402
from trainer.engine import AttentionSpec, SequenceBounds, packed_attention  # noqa: E402

LENGTHS = (5, 1, 17, 300)


def _tensors(dtype):
    generator = torch.Generator().manual_seed(0)
    total = sum(LENGTHS)
    shapes = ((total, 4, 8), (total, 2, 8), (total, 2, 8))
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def _formula(q, k, v, spec):
    outputs, start = [], 0
    for length in LENGTHS:
        rows = slice(start, start + length)
        keys, values = (x[rows].repeat_interleave(2, dim=1) for x in (k, v))
        scores = torch.einsum("qhd,khd->hqk", q[rows], keys) * spec.scale
        if spec.softcap is not None:
            scores = torch.tanh(scores / spec.softcap) * spec.softcap
        behind = torch.arange(length)[:, None] - torch.arange(length)[None, :]
        hidden = (behind < 0) | (behind >= (spec.window or length))
        outputs.append(torch.einsum("hqk,khd->qhd", scores.masked_fill(hidden, -torch.inf).softmax(-1), values))
        start += length
    return torch.cat(outputs)


@pytest.mark.parametrize(
    "spec",
    [AttentionSpec(0.35), AttentionSpec(0.5, window=4), AttentionSpec(0.35, softcap=1.5), AttentionSpec(0.3, 6, 2.0)],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("longest_short", [16, 512])
def test_equals_formula(spec, dtype, longest_short, monkeypatch):
    monkeypatch.setattr("trainer.engine.attention.longest_short", lambda: longest_short)  # both ways, and their mixture
    ours = _tensors(dtype)
    out = packed_attention(*ours, SequenceBounds.of(LENGTHS), spec)
    assert out.dtype == dtype
    truth = [x.detach().double().requires_grad_() for x in ours]
    expected = _formula(*truth, spec)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1)).to(dtype)
    out.backward(upstream)
    expected.backward(upstream.double())
    limits = {"rtol": 1e-4, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 0.05, "atol": 0.05}
    torch.testing.assert_close(out.double(), expected, **limits)
    for a, b in zip(ours, truth, strict=True):
        torch.testing.assert_close(a.grad.double(), b.grad, **limits)


def test_a_back_end_that_cannot_run_is_refused():
    tensors = _tensors(torch.float32)
    with pytest.raises(
        OptionError, match=r"attention backend: expected one of sdpa for torch.float32 on cpu; got 'varlen'"
    ):
        packed_attention(*tensors, SequenceBounds.of(LENGTHS), AttentionSpec(1.0), "varlen")


def _like_varlen(takes):
    """The contract of torch's CUDA function, computed by the formula: what we hand it is what is under test."""

    def compute(q, k, v, cu_seq_q, cu_seq_k, max_q, max_k, *, scale=None, window_size=None, **_):
        assert cu_seq_q.dtype == torch.int32
        assert cu_seq_q.tolist() == [0, 5, 6, 23, 323]
        assert (max_q, max_k) == (300, 300)
        assert window_size is None or window_size[1] == 0
        window = None if window_size in (None, (-1, 0)) else window_size[0] + 1
        if q.shape[1] == k.shape[1]:  # the formula pairs two query heads with one key head
            k, v = k[:, ::2], v[:, ::2]
        return _formula(q, k, v, AttentionSpec(q.shape[-1] ** -0.5 if scale is None else scale, window))

    return compute, frozenset(takes)


@pytest.mark.parametrize("spec", [AttentionSpec(0.35), AttentionSpec(0.5, window=4), AttentionSpec(0.2, window=999)])
@pytest.mark.parametrize("takes", [{"scale", "window_size", "enable_gqa"}, {"scale", "window_size"}, {"is_causal"}])
def test_what_varlen_is_given(spec, takes, monkeypatch):
    from trainer.engine import attention

    monkeypatch.setattr(attention, "_varlen", lambda: _like_varlen(takes))
    tensors = [x.detach() for x in _tensors(torch.float32)]
    out = attention._by_varlen(*tensors, SequenceBounds.of(LENGTHS), spec)
    torch.testing.assert_close(out, _formula(*tensors, spec), rtol=1e-4, atol=1e-5)

"""Target logprobs against log_softmax over all logits; and the proof that those logits never exist."""

from __future__ import annotations

import weakref

import pytest

torch = pytest.importorskip("torch")
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from trainer.engine import Head, Projection, Segment, target_logprobs  # noqa: E402
from trainer.engine.lora import AdapterWeights, LoraPart, Site  # noqa: E402


def _head(hidden, vocab, *, softcap=None, scale=1.0, bias=False, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    weight = (torch.randn(vocab, hidden, generator=generator) * 0.3).to(dtype)
    offset = torch.randn(vocab, generator=generator).to(dtype) if bias else None
    return Head(Projection("lm_head", "unembed", weight, offset, (Site("lm_head", 0, vocab),)), softcap, scale)


def _part(hidden, vocab, rank, seed):
    generator = torch.Generator().manual_seed(seed)
    a, b = (0.3 * torch.randn(shape, generator=generator) for shape in ((rank, hidden), (vocab, rank)))
    return LoraPart(a, (b,), ((0, vocab),), rank, 2.0, torch.zeros_like(a), (torch.zeros_like(b),))


def _plain(head, hidden, targets, runs):
    """All logits at once; `runs` are (a, b, scale, start, stop)."""
    projection = head.projection
    logits = hidden @ projection.weight.T + (projection.bias if projection.bias is not None else 0.0)
    for a, b, scale, start, stop in runs:
        delta = torch.zeros_like(logits)
        delta[start:stop] = scale * (hidden[start:stop] @ a.T) @ b.T
        logits = logits + delta
    logits = logits * head.scale
    if head.softcap is not None:
        logits = head.softcap * torch.tanh(logits / head.softcap)
    return logits.log_softmax(-1).gather(1, targets)


@pytest.mark.parametrize(
    "options", [{}, {"softcap": 2.0}, {"scale": 0.25}, {"bias": True}, {"softcap": 3.0, "scale": 0.5}]
)
@pytest.mark.parametrize("width", [1, 3])
def test_equals_log_softmax(options, width, monkeypatch):
    monkeypatch.setattr("trainer.engine.head._MAX_CHUNK_ROWS", 7)  # several chunks, and adapters' bounds inside them
    head = _head(16, 50, **options)
    hidden = torch.randn(25, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.randint(0, 50, (25, width), generator=torch.Generator().manual_seed(2))
    upstream = torch.randn(25, width, generator=torch.Generator().manual_seed(3))
    upstream[4:12] = 0  # rows without gradient take the short way
    spans = ((0, 10), (13, 25))
    parts = [_part(16, 50, rank, rank) for rank in (2, 5)]
    segments = [Segment(AdapterWeights({"lm_head": p}), *s) for p, s in zip(parts, spans, strict=True)]

    ours = hidden.clone().requires_grad_()
    logprobs = target_logprobs(ours, head, targets, segments)
    logprobs.backward(upstream)

    plain = hidden.clone().requires_grad_()
    leaves = [(p.a.clone().requires_grad_(), p.bs[0].clone().requires_grad_()) for p in parts]
    runs = [(a, b, p.scale, *s) for (a, b), p, s in zip(leaves, parts, spans, strict=True)]
    expected = _plain(head, plain, targets, runs)
    expected.backward(upstream)
    torch.testing.assert_close(logprobs, expected, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.grad, plain.grad, rtol=1e-4, atol=1e-5)
    for part, (a, b) in zip(parts, leaves, strict=True):
        torch.testing.assert_close(part.grad_a, a.grad, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(part.grad_bs[0], b.grad, rtol=1e-4, atol=1e-5)
    all_logits = head.logits(hidden, segments).log_softmax(-1).gather(1, targets)
    torch.testing.assert_close(all_logits, expected.detach(), rtol=0, atol=1e-5)


def test_one_pass_gradient_equals_two_passes():
    head = _head(16, 40)
    hidden = torch.randn(30, 16, generator=torch.Generator().manual_seed(1))
    targets = torch.randint(0, 40, (30, 1), generator=torch.Generator().manual_seed(2))
    _, d_hidden = head.score(hidden, targets, (), lambda lp, start, stop: lp.exp())  # loss = sum of p
    leaf = hidden.clone().requires_grad_()
    target_logprobs(leaf, head, targets).exp().sum().backward()
    torch.testing.assert_close(d_hidden, leaf.grad)


class _Live(TorchDispatchMode):
    """Adds up every tensor storage alive at once, as the operators make them."""

    def __init__(self):
        super().__init__()
        self.alive, self.now, self.peak, self.largest = set(), 0, 0, 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, torch.Tensor):
                self._count(leaf.untyped_storage())
        return out

    def _count(self, storage):
        key = storage._cdata
        if key in self.alive:
            return
        size = storage.nbytes()
        self.alive.add(key)
        self.now += size
        self.peak, self.largest = max(self.peak, self.now), max(self.largest, size)
        weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key, size):
        self.alive.discard(key)
        self.now -= size


def test_the_counter_sees_materialised_logits():
    head, hidden = _head(8, 1000), torch.randn(2000, 8)
    with _Live() as live:
        _plain(head, hidden, torch.zeros(2000, 1, dtype=torch.int64), ())
    assert live.peak >= 2 * 2000 * 1000 * 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_logits_are_never_materialised(dtype, monkeypatch):
    """At 1/8 of the tokens and of the vocabulary that a large model brings, with the chunk budget scaled alike."""
    rows, vocab = 2048, 19_000
    budget = (512 << 20) // 64
    monkeypatch.setattr("trainer.engine.head._CHUNK_BYTES", budget)
    head = _head(8, vocab, dtype=dtype)
    hidden, targets = torch.randn(rows, 8).to(dtype), torch.zeros(rows, 1, dtype=torch.int64)
    with _Live() as live:
        _, d_hidden = head.score(hidden, targets, (), lambda lp, start, stop: torch.ones_like(lp))
    assert d_hidden is not None
    assert live.peak < 1.2 * budget < rows * vocab * 4 / 8
    full = _head(1, 151_936, dtype=dtype)
    monkeypatch.undo()
    assert full.chunk_rows() * 151_936 * (4 + dtype.itemsize) <= 512 << 20 < 1 << 30
    assert full.chunk_rows() >= 256

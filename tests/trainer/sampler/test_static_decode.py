"""The step that CUDA graphs hold, run without a graph, against the CPU's own decode."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from trainer.engine import BaseModel, Engine, Segment  # noqa: E402
from trainer.protocol import LoraConfig, SamplingParams  # noqa: E402
from trainer.sampler import AdapterSnapshot, Sampler  # noqa: E402
from trainer.sampler.forward import segments_of  # noqa: E402
from trainer.sampler.static_decode import StaticDecode, _clone, _copy, _layout  # noqa: E402


def _adapter(engine, seed):
    adapter_id = engine.create_adapter(LoraConfig(rank=4, seed=seed))
    engine.adapter(adapter_id).params.uniform_(-0.2, 0.2, generator=torch.Generator().manual_seed(seed))
    return AdapterSnapshot.of(engine, adapter_id)


@pytest.mark.parametrize("family", ["qwen3", "mistral", "gemma2", "qwen3-moe"])
def test_static_step_samples_the_same(family, make_module, prompt):
    """Rows of several adapters and lengths, shared prompts, padding to buckets."""
    base = BaseModel.from_module(make_module(family))
    engine = Engine(base)
    adapters = [None, _adapter(engine, 1), _adapter(engine, 2)]
    results = []
    for static in (False, True):
        sampler = Sampler(base, max_batch=7, cache_tokens=512, end_of_sequence=())
        if static:
            sampler.forward._static = StaticDecode(base.decoder, base.head, sampler.residents.pool)
            assert not sampler.forward._static.graphs
        futures = [
            sampler.submit(prompt(5 + 8 * i, i), SamplingParams(max_tokens=10, seed=i), 1 + i, adapter=adapter)
            for i, adapter in enumerate(adapters)
        ]
        sampler.run_until_idle()
        results.append([s for f in futures for s in f.result().sequences])
    for one, other in zip(*results, strict=True):
        assert one.tokens == other.tokens
        torch.testing.assert_close(torch.tensor(one.logprobs), torch.tensor(other.logprobs), rtol=0, atol=2e-5)


def test_a_graphs_own_adapter_takes_over_another_snapshot(base, engine):
    first, second = _adapter(engine, 1), _adapter(engine, 2)
    assert _layout(first.weights) == _layout(second.weights) != _layout(None)
    own = _clone(first.weights)
    before = [part.a.data_ptr() for part in own.parts.values()]
    _copy(own, second.weights)
    assert [part.a.data_ptr() for part in own.parts.values()] == before
    x = torch.randn(3, 32, generator=torch.Generator().manual_seed(0))
    want = base.head.logits(x, [Segment(second.weights, 0, 3)])
    assert torch.equal(base.head.logits(x, [Segment(own, 0, 3)]), want)


def test_segments_join_neighbours(engine):
    one, other = _adapter(engine, 1).weights, _adapter(engine, 2).weights
    found = segments_of([(None, 2), (one, 1), (one, 3), (other, 1), (None, 1), (one, 1)])
    assert [(s.weights is one, s.start, s.stop) for s in found] == [(True, 2, 6), (False, 6, 7), (True, 8, 9)]

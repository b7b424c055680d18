"""Drawing against an obvious float64 reference, at fixed uniforms and by its distribution."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from trainer.protocol import SamplingParams  # noqa: E402
from trainer.sampler.draw import UniformStream, draw  # noqa: E402

VOCAB = 700


def _distribution(logits, params):
    """Probabilities of every token, float64, by sorting everything."""
    scaled = logits.double().numpy() / params.temperature
    mass = np.exp(scaled - scaled.max())
    order = np.argsort(-mass, kind="stable")
    kept = order[: params.top_k] if params.top_k != -1 else order
    share = np.cumsum(mass[kept]) / mass[kept].sum()
    kept = kept[: int(np.searchsorted(share, params.top_p)) + 1] if params.top_p < 1 else kept
    found = np.zeros(len(mass))
    found[kept] = mass[kept] / mass[kept].sum()
    return found, kept


CASES = [
    SamplingParams(),
    SamplingParams(temperature=0.7),
    SamplingParams(temperature=1.9),
    SamplingParams(top_k=5),
    SamplingParams(top_p=0.4),
    SamplingParams(top_p=0.999),
    SamplingParams(top_k=40, top_p=0.8, temperature=1.3),
    SamplingParams(top_k=5000),
]


@pytest.mark.parametrize("params", CASES, ids=str)
@pytest.mark.parametrize("vocab", [VOCAB, 512, 40])
def test_exact_inverse(params, vocab):
    """At uniforms inside each token's interval, exactly that token comes."""
    logits = 3 * torch.randn(1, vocab, generator=torch.Generator().manual_seed(vocab))
    probabilities, kept = _distribution(logits[0], params)
    order = np.arange(vocab) if params.top_k == -1 and params.top_p == 1 else kept
    edges = np.concatenate([[0.0], np.cumsum(probabilities[order])])
    wide = [i for i in range(len(order)) if edges[i + 1] - edges[i] > 1e-5]
    middles = [(edges[i] + edges[i + 1]) / 2 for i in wide]
    tokens, logprobs = draw(logits.repeat(len(wide), 1), [params] * len(wide), middles)
    assert tokens == [int(order[i]) for i in wide]
    truth = torch.log_softmax(logits[0].double(), -1)
    np.testing.assert_allclose(logprobs, truth[tokens], atol=1e-5)
    # the ends of the interval never leave the kept set
    for uniform in (0.0, np.nextafter(1.0, 0.0)):
        assert probabilities[draw(logits, [params], [uniform])[0][0]] > 0


def test_mixed_rows_equal_each_alone():
    logits = 2 * torch.randn(len(CASES) + 1, VOCAB, generator=torch.Generator().manual_seed(1))
    params = [*CASES, SamplingParams(temperature=0)]
    uniforms = np.random.default_rng(0).random(len(params)).tolist()
    together = draw(logits, params, uniforms)
    for i, one in enumerate(params):
        tokens, logprobs = draw(logits[i : i + 1], [one], [uniforms[i]])
        assert (tokens[0], logprobs[0]) == (together[0][i], together[1][i])


@pytest.mark.parametrize("vocab", [40, 256, 700])
def test_greedy_takes_the_first_of_the_largest(vocab):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randint(0, 30, (50, vocab), generator=generator).float()
    tokens, _ = draw(logits, [SamplingParams(temperature=0)] * 50, [0.5] * 50)
    assert tokens == [int(np.argmax(row)) for row in logits.numpy()]


def test_frequencies_follow_the_distribution():
    """Chi-square over 20,000 draws of one logits row, uniforms from the samples' own streams."""
    params = SamplingParams(temperature=0.8)
    logits = torch.randn(1, 12, generator=torch.Generator().manual_seed(3))
    streams = [UniformStream(17, index) for index in range(200)]
    uniforms = [stream.at(step) for stream in streams for step in range(100)]
    tokens, _ = draw(logits.expand(len(uniforms), -1), [params] * len(uniforms), uniforms)
    expected = _distribution(logits[0], params)[0] * len(uniforms)
    chi = ((np.bincount(tokens, minlength=12) - expected) ** 2 / expected).sum()
    assert chi < 31.3  # 0.1 % of chi-square with 11 degrees of freedom


def test_streams_depend_on_seed_index_and_step_alone():
    stream = UniformStream(-5, 2)
    assert stream.at(3) == stream.at(3) == UniformStream(-5, 2).at(3)
    assert len({UniformStream(seed, index).at(step) for seed in (0, 1) for index in (0, 1) for step in (0, 1)}) == 8

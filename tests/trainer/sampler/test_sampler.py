"""The sampler's promises: agreement with the trainer, independence of company, shared prompts, adapters, limits."""

from __future__ import annotations

import threading
from concurrent.futures import CancelledError

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from renderers import Datum, InputError, ModelInput, OptionError  # noqa: E402
from trainer.protocol import AdamParams, SamplingParams  # noqa: E402


def _forward(engine, adapter_id, tokens):
    datum = Datum(
        ModelInput.from_ints(tokens[:-1]),
        {"target_tokens": np.array(tokens[1:]), "weights": np.ones(len(tokens) - 1, np.float32)},
    )
    return engine.forward(adapter_id, [datum]).loss_fn_outputs[0]["logprobs"].to_numpy()


@pytest.mark.parametrize("temperature", [0.0, 1.0, 1.7])
def test_logprobs_equal_the_trainers(temperature, make_sampler, engine, new_adapter, snapshot, prompt):
    """Teacher-forcing what was sampled: the raw distribution, whatever the temperature and filters were."""
    adapter = new_adapter(1)
    sampler = make_sampler()
    params = SamplingParams(max_tokens=20, seed=5, temperature=temperature, top_k=50, top_p=0.9)
    future = sampler.submit(prompt(11), params, 3, adapter=snapshot(adapter), include_prompt_logprobs=True)
    sampler.run_until_idle()
    response = future.result()
    for sequence in response.sequences:
        scored = _forward(engine, adapter, prompt(11) + sequence.tokens)
        np.testing.assert_allclose(sequence.logprobs, scored[10:], atol=1e-4)
        np.testing.assert_allclose(response.prompt_logprobs[1:], scored[:10], atol=1e-4)
    assert response.prompt_logprobs[0] is None


_MENU = [
    (7, SamplingParams(max_tokens=9, seed=1), 1),
    (1, SamplingParams(max_tokens=5, seed=2, temperature=0.6), 3),
    (33, SamplingParams(max_tokens=12, seed=3, top_p=0.7), 2),
    (20, SamplingParams(max_tokens=3, temperature=0), 1),
    (33, SamplingParams(max_tokens=15, seed=4, top_k=7), 1),  # the third one's prompt
    (40, SamplingParams(max_tokens=8, seed=1, temperature=2.0), 1),  # begins as the third one's
]


def _ask(sampler, prompt, choice):
    length, params, samples = _MENU[choice]
    tokens = (prompt(40, 9) if length >= 33 else prompt(length, length))[:length]
    return sampler.submit(tokens, params, samples)


@settings(max_examples=12, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    choices=st.lists(st.integers(0, len(_MENU) - 1), min_size=2, max_size=6),
    steps=st.lists(st.integers(0, 3), min_size=6, max_size=6),
    batch=st.integers(1, 6),
    pool=st.sampled_from([96, 160, 1024]),
)
def test_company_changes_nothing(choices, steps, batch, pool, make_sampler, prompt, alone):
    """Any company, any arrival order, any batch size, memory short or plenty: every request's result as alone."""
    sampler = make_sampler(max_batch=batch, cache_tokens=pool, prefill_tokens=16)
    futures = []
    for choice, wait in zip(choices, steps, strict=False):
        futures.append(_ask(sampler, prompt, choice))
        for _ in range(wait):
            sampler.step()
    sampler.run_until_idle()
    for choice, future in zip(choices, futures, strict=True):
        got, want = future.result().sequences, alone(choice)
        assert [s.tokens for s in got] == [s.tokens for s in want]
        for one, other in zip(got, want, strict=True):
            np.testing.assert_allclose(one.logprobs_np, other.logprobs_np, atol=2e-5)
    sampler.residents.cache.clear()
    assert sampler.residents.pool.free == sampler.residents.pool.capacity


@pytest.fixture
def alone(make_sampler, prompt):
    known = {}

    def run(choice):
        if choice not in known:
            sampler = make_sampler()
            future = _ask(sampler, prompt, choice)
            sampler.run_until_idle()
            known[choice] = future.result().sequences
        return known[choice]

    return run


def test_memory_pressure_preempts_and_changes_nothing(make_sampler, prompt):
    params = [SamplingParams(max_tokens=60, seed=i) for i in range(4)]
    plenty, short = make_sampler(cache_tokens=1024), make_sampler(cache_tokens=160)
    results = []
    for sampler in (plenty, short):
        futures = [sampler.submit(prompt(20, 0), p) for p in params]
        sampler.run_until_idle()
        results.append([f.result().sequences[0] for f in futures])
    assert plenty.stats.preempted == 0
    assert short.stats.preempted > 0
    for one, other in zip(*results, strict=True):
        assert one.tokens == other.tokens
        np.testing.assert_allclose(one.logprobs_np, other.logprobs_np, atol=2e-5)


def test_samples_share_one_prefill_and_differ(make_sampler, prompt):
    sampler = make_sampler(max_batch=3, prefix_tokens=0)
    response = sampler.sample(prompt(50), SamplingParams(max_tokens=10, seed=0), num_samples=5)
    assert sampler.stats.prefilled_tokens == 50
    assert len({tuple(s.tokens) for s in response.sequences}) == 5
    again = make_sampler().sample(prompt(50), SamplingParams(max_tokens=10, seed=0), num_samples=2)
    assert [s.tokens for s in again.sequences] == [s.tokens for s in response.sequences[:2]]


def test_prefix_hit_gives_equal_results(make_sampler, prompt):
    params = SamplingParams(max_tokens=8, seed=4)
    sampler, cold = make_sampler(), make_sampler(prefix_tokens=0)
    first = sampler.sample(prompt(48), params)
    longer = prompt(48) + first.sequences[0].tokens[:5] + prompt(10, 3)  # a second turn
    for tokens, hit in ((prompt(48), 47), (longer, 53), (prompt(40) + prompt(9, 8), 40)):
        before = sampler.stats.prefilled_tokens
        warm = sampler.sample(tokens, params)
        assert warm.prompt_cache_hit_tokens == hit
        assert sampler.stats.prefilled_tokens - before == len(tokens) - hit
        assert warm.sequences[0].tokens == cold.sample(tokens, params).sequences[0].tokens
    assert cold.stats.cache_hit_tokens == 0


def test_prefix_cache_respects_version_and_content(make_sampler, engine, new_adapter, snapshot, prompt):
    adapter = new_adapter(1)
    sampler = make_sampler()
    params = SamplingParams(max_tokens=8, seed=4)
    first = snapshot(adapter)
    old = sampler.sample(prompt(40), params, adapter=first)
    assert sampler.sample(prompt(40), params, adapter=snapshot(adapter)).prompt_cache_hit_tokens == 39
    assert sampler.sample(prompt(40), params).prompt_cache_hit_tokens == 0  # the base is nobody's adapter
    engine.adapter(adapter).params.mul_(1.5)
    same_version = sampler.sample(prompt(40), params, adapter=snapshot(adapter))
    assert same_version.prompt_cache_hit_tokens == 0  # the name is the old one, the numbers are not
    engine.adapter(adapter).version += 1
    assert sampler.sample(prompt(40), params, adapter=snapshot(adapter)).prompt_cache_hit_tokens == 0
    back = sampler.sample(prompt(40), params, adapter=first)
    assert back.sequences[0].tokens == old.sequences[0].tokens
    assert same_version.sequences[0].tokens != old.sequences[0].tokens


def test_prefix_cache_keeps_its_budget(make_sampler, prompt):
    sampler = make_sampler(prefix_tokens=100)
    for seed in range(6):
        sampler.sample(prompt(30, seed), SamplingParams(max_tokens=2, seed=0))
    assert 0 < sampler.residents.cache.tokens <= 100
    assert sampler.sample(prompt(30, 5), SamplingParams(max_tokens=2)).prompt_cache_hit_tokens == 29
    assert sampler.sample(prompt(30, 0), SamplingParams(max_tokens=2)).prompt_cache_hit_tokens == 0


def test_two_adapters_in_one_batch(make_sampler, new_adapter, snapshot, prompt):
    adapters = [snapshot(new_adapter(1)), None, snapshot(new_adapter(2, train_mlp=False))]
    asks = [(prompt(9, i), SamplingParams(max_tokens=12, seed=i), adapters[i % 3]) for i in range(6)]
    together = make_sampler()
    futures = [together.submit(p, s, adapter=a) for p, s, a in asks]
    together.run_until_idle()
    results = [f.result().sequences[0] for f in futures]
    for (p, s, a), got in zip(asks, results, strict=True):
        want = make_sampler().sample(p, s, adapter=a).sequences[0]
        assert got.tokens == want.tokens
        np.testing.assert_allclose(got.logprobs_np, want.logprobs_np, atol=2e-5)
    assert (
        len({tuple(make_sampler().sample(prompt(9), asks[0][1], adapter=a).sequences[0].tokens) for a in adapters}) == 3
    )


def test_snapshot_stays_while_training_goes_on(make_sampler, engine, new_adapter, snapshot, prompt):
    adapter = new_adapter(1)
    frozen = snapshot(adapter)
    params = SamplingParams(max_tokens=16, seed=8)
    want = make_sampler().sample(prompt(9), params, adapter=frozen).sequences[0]
    sampler = make_sampler()
    future = sampler.submit(prompt(9), params, adapter=frozen)
    datum = Datum(ModelInput.from_ints(prompt(9)), {"target_tokens": prompt(9, 1), "weights": np.ones(9)})
    while sampler.step():
        engine.forward_backward(adapter, [datum])
        engine.optim_step(adapter, AdamParams(learning_rate=0.1))
    got = future.result().sequences[0]
    assert got.tokens == want.tokens
    np.testing.assert_array_equal(got.logprobs_np, want.logprobs_np)
    later = make_sampler().sample(prompt(9), params, adapter=snapshot(adapter)).sequences[0]
    assert later.tokens != want.tokens


def test_context_end_and_limits(make_sampler, prompt):
    sampler = make_sampler()
    assert sampler.context_length == 96
    response = sampler.sample(prompt(90), SamplingParams(seed=1))
    assert [(len(s.tokens), s.stop_reason) for s in response.sequences] == [(6, "length")]
    assert len(sampler.sample(prompt(90), SamplingParams(max_tokens=100)).sequences[0].tokens) == 6
    assert sampler.sample(prompt(96)).sequences[0].tokens == []
    nothing = sampler.sample(prompt(5), SamplingParams(max_tokens=0), num_samples=2)
    assert [(s.tokens, s.logprobs, s.stop_reason) for s in nothing.sequences] == [([], [], "length")] * 2
    assert make_sampler(cache_tokens=64).context_length == 48  # what fits in memory at all


def test_prompt_logprobs_topk_and_compute(make_sampler, engine, new_adapter, snapshot, prompt, base):
    adapter = new_adapter(3)
    sampler = make_sampler(prefill_tokens=7)
    future = sampler.compute_logprobs(prompt(30), adapter=snapshot(adapter))
    sampler.run_until_idle()
    scored = _forward(engine, adapter, prompt(30))
    np.testing.assert_allclose(future.result().prompt_logprobs[1:], scored, atol=1e-4)
    response = sampler.sample(
        prompt(30), SamplingParams(max_tokens=4, seed=0), topk_prompt_logprobs=5, topk_sample_logprobs=3
    )
    assert response.prompt_logprobs is None
    with torch.no_grad():
        tokens = prompt(30) + response.sequences[0].tokens
        truth = base.module(torch.tensor([tokens])).logits[0].log_softmax(-1)
    rows = response.topk_prompt_logprobs
    assert rows[0] is None
    for position in (1, 7, 29):
        values, ids = truth[position - 1].topk(5)
        assert [i for i, _ in rows[position]] == ids.tolist()
        np.testing.assert_allclose([v for _, v in rows[position]], values, atol=1e-4)
    sampled = response.sequences[0].topk_logprobs
    assert [[i for i, _ in row] for row in sampled] == truth[29:33].topk(3).indices.tolist()


def test_cancelled_request_frees_its_memory(make_sampler, prompt):
    sampler = make_sampler(max_batch=4, prefix_tokens=0)
    doomed = sampler.submit(prompt(20), SamplingParams(max_tokens=60, seed=0), num_samples=6)
    other = sampler.submit(prompt(8), SamplingParams(max_tokens=5, seed=0))
    for _ in range(4):
        sampler.step()
    assert sampler.residents.pool.free < sampler.residents.pool.capacity
    assert doomed.cancel()
    sampler.run_until_idle()
    with pytest.raises(CancelledError):
        doomed.result()
    assert len(other.result().sequences[0].tokens) == 5
    assert sampler.residents.pool.free == sampler.residents.pool.capacity


def test_fault_fails_one_request_alone(make_sampler, prompt):
    def bad(index, token, logprob):
        raise RuntimeError("the listener broke")

    sampler = make_sampler(prefix_tokens=0)
    params = SamplingParams(max_tokens=9, seed=2)
    fine = sampler.submit(prompt(5), params)
    broken = sampler.submit(prompt(6), params, num_samples=3, on_token=bad)
    sampler.run_until_idle()
    with pytest.raises(RuntimeError, match="listener"):
        broken.result()
    assert fine.result().sequences[0].tokens == make_sampler().sample(prompt(5), params).sequences[0].tokens
    assert sampler.residents.pool.free == sampler.residents.pool.capacity


def test_fault_in_a_shared_pass_finds_the_culprit(make_sampler, prompt, monkeypatch):
    sampler = make_sampler(prefix_tokens=0)
    params = SamplingParams(max_tokens=9, seed=2)
    futures = [sampler.submit(prompt(n), params) for n in (5, 6, 7)]
    decode = sampler.forward.decode

    def faulty(batch):
        if any(row.context.length == 8 and row.context.own.start == 0 for row in batch):  # the first one's 4th step
            raise RuntimeError("device fault")
        return decode(batch)

    monkeypatch.setattr(sampler.forward, "decode", faulty)
    sampler.run_until_idle()
    with pytest.raises(RuntimeError, match="device fault"):
        futures[0].result()
    for n, future in zip((6, 7), futures[1:], strict=True):
        assert future.result().sequences[0].tokens == make_sampler().sample(prompt(n), params).sequences[0].tokens


def test_tokens_stream_as_they_come(make_sampler, prompt):
    seen = {0: [], 1: []}
    sampler = make_sampler()
    future = sampler.submit(
        prompt(5), SamplingParams(max_tokens=6, seed=1), 2, on_token=lambda i, token, lp: seen[i].append((token, lp))
    )
    sampler.step()
    assert len(seen[0]) == 2  # the first token from the prefill, the second from the same round's decode
    sampler.run_until_idle()
    for index, sequence in enumerate(future.result().sequences):
        assert [t for t, _ in seen[index]] == sequence.tokens
        np.testing.assert_allclose([lp for _, lp in seen[index]], sequence.logprobs)


def test_submit_from_another_thread_wakes_the_driver(make_sampler, prompt):
    sampler = make_sampler()
    futures = []
    caller = threading.Timer(0.05, lambda: futures.append(sampler.submit(prompt(5), SamplingParams(max_tokens=3))))
    caller.start()
    assert sampler.wait(timeout=20)
    sampler.run_until_idle()
    caller.join()
    assert len(futures[0].result().sequences[0].tokens) == 3
    assert not sampler.wait(timeout=0)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"prompt": []}, "prompt"),
        ({"prompt": [3, 999]}, r"prompt\[1\]"),
        ({"prompt": [[3]]}, "prompt"),
        ({"prompt": [3] * 97}, "prompt"),
        ({"prompt": [3], "num_samples": 0}, "num_samples"),
        ({"prompt": [3], "topk_prompt_logprobs": -1}, "topk_prompt_logprobs"),
        ({"prompt": [3], "params": SamplingParams(stop="x")}, "sampling_params.stop"),
        ({"prompt": [3], "params": SamplingParams(stop=[5000])}, "sampling_params.stop"),
    ],
)
def test_wrong_requests_are_refused_at_the_call(arguments, field, make_sampler):
    with pytest.raises((InputError, OptionError), match=f"^{field}"):
        make_sampler().submit(**arguments)

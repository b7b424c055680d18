"""Passes: forward is forward_backward, company changes nothing, packing changes nothing, failures change nothing."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from renderers import Datum, ModelInput  # noqa: E402
from trainer.engine import BaseModel, Engine, LossInputs, Request  # noqa: E402
from trainer.engine.losses import find_loss  # noqa: E402
from trainer.engine.memory import MemoryPlan  # noqa: E402
from trainer.engine.packing import plan_passes  # noqa: E402
from trainer.protocol import AdamParams  # noqa: E402

RL = ["importance_sampling", "ppo", "cispo", "dro", "gspo"]


def _logprobs(output):
    return np.concatenate([o["logprobs"].to_numpy().ravel() for o in output.loss_fn_outputs])


@pytest.fixture
def one(make_engine, lora, wake):
    """An engine with one adapter whose B is not zero."""
    engine = make_engine()
    wake(engine.adapter(engine.create_adapter(lora(), "a")))
    return engine


def _rl_data(rl, name):
    more = (lambda n: {"sequence_ratio_mask": (np.arange(n) > n // 4).astype(np.float32)}) if name == "gspo" else dict
    return [rl(n, n, **(more(n) if name == "gspo" else {})) for n in (11, 3, 24)]


@pytest.mark.parametrize("name", RL)
def test_rl_losses_end_to_end(name, one, rl, reference, make_module):
    """Loss and gradients of the whole path against the plain loop with the loss's own function."""
    data, config = _rl_data(rl, name), ({"beta": 0.2} if name == "dro" else None)
    adapter = one.adapter("a")
    plain = reference(make_module("qwen3"), adapter)
    loss, total = find_loss(name), 0.0
    for datum in data:
        logprobs = plain.logprobs(datum).squeeze(-1)
        tensors = {k: v.to_torch() for k, v in datum.loss_fn_inputs.items() if k != "target_tokens"}
        inputs = LossInputs(tensors, torch.zeros(len(logprobs), dtype=torch.int64), 1)
        total = total + loss.function(logprobs, inputs, loss.settings(config)).sum()
    total.backward()
    output = one.forward_backward("a", data, name, config)
    assert output.metrics["loss:sum"] == pytest.approx(float(total.detach()), rel=1e-5, abs=1e-5)
    assert one.forward("a", data, name, config).metrics == pytest.approx(output.metrics, rel=1e-12)
    for key, gradient in adapter.named_gradients().items():
        want = plain.gradient(key)
        torch.testing.assert_close(gradient, want, rtol=0, atol=1e-5 * float(want.abs().max()) + 1e-6, msg=key)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_forward_is_forward_backward(dtype, make_engine, data, lora, wake):
    engine = make_engine("qwen3", dtype)
    wake(engine.adapter(engine.create_adapter(lora(), "a")))
    before, during = engine.forward("a", data), engine.forward_backward("a", data)
    assert np.array_equal(_logprobs(before), _logprobs(during))
    assert before.metrics == pytest.approx(during.metrics, rel=1e-12)
    assert set(before.metrics) == {"loss:sum", "num_tokens:sum", "num_loss_tokens:sum"}
    assert before.metrics["num_tokens:sum"] == 41
    assert [o["logprobs"].shape for o in before.loss_fn_outputs] == [[7], [1], [20], [13]]


def test_gradients_accumulate_until_the_step(one, data):
    adapter = one.adapter("a")
    one.forward_backward("a", data)
    whole = adapter.grads.clone()
    one.optim_step("a", AdamParams(learning_rate=0.0))
    assert not adapter.grads.any()
    for datum in data:
        one.forward_backward("a", [datum])
    torch.testing.assert_close(adapter.grads, whole, rtol=1e-4, atol=1e-5)
    kept = adapter.grads.clone()
    one.forward("a", data)
    assert torch.equal(adapter.grads, kept)


def test_packing_changes_nothing(make_engine, data, lora, wake):
    results = []
    for budget, order in ((1000, 1), (21, 1), (8, -1), (1, 1)):
        engine = make_engine(tokens_per_pass=budget)
        wake(engine.adapter(engine.create_adapter(lora(), "a")))
        output = engine.forward_backward("a", data[::order])
        by_datum = [o["logprobs"].to_numpy() for o in output.loss_fn_outputs][::order]
        results.append((np.concatenate(by_datum), engine.adapter("a").grads))
    for logprobs, grads in results[1:]:
        np.testing.assert_allclose(logprobs, results[0][0], rtol=0, atol=2e-6)
        torch.testing.assert_close(grads, results[0][1], rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "qwen2-moe"])
def test_several_adapters_in_one_pass(family, make_engine, datum, rl, lora, wake):
    """Mixed ranks, flags, losses and modes; each one's numbers are those it gets alone."""
    configs = {"a": lora(), "b": lora(rank=7, seed=5, train_unembed=False), "c": lora(rank=2, train_attn=False)}

    def build():
        engine = make_engine(family)
        for seed, (name, config) in enumerate(configs.items()):
            engine.create_adapter(config, name)
            wake(engine.adapter(name), seed)
        return engine

    requests = [
        Request("b", [datum(9, 1), datum(14, 2)]),
        Request("a", [rl(12, 3), rl(5, 4)], "ppo"),
        Request("c", [datum(6, 5)], backward=False),
        Request("b", [datum(4, 6)]),
        Request("a", [rl(8, 7, sequence_ratio_mask=np.ones(8, np.float32))], "gspo"),
    ]
    together, alone = build(), build()
    outputs = together.forward_backward_many(requests)
    for request, output in zip(requests, outputs, strict=True):
        (single,) = alone.run([request])
        np.testing.assert_allclose(_logprobs(output), _logprobs(single), rtol=0, atol=3e-6)
        assert output.metrics == pytest.approx(single.metrics, rel=1e-4, abs=1e-5)
    for name in configs:
        got, want = together.adapter(name).grads, alone.adapter(name).grads
        torch.testing.assert_close(got, want, rtol=1e-4, atol=2e-5)
    assert not together.adapter("c").grads.any()
    assert together.adapter("a").grads.any()


def test_same_seed_same_bits(make_engine, data, lora):
    def losses():
        engine = make_engine()
        engine.create_adapter(lora(seed=11), "a")
        found = []
        for _ in range(4):
            found.append(engine.forward_backward("a", data).metrics["loss:sum"])
            engine.optim_step("a", AdamParams(learning_rate=3e-3))
        return found

    first, second = losses(), losses()
    assert first == second
    assert len(set(first)) == 4


def test_training_lowers_the_loss(one, datum):
    data = [datum(12, i, weights=np.ones(12)) for i in range(3)]
    losses = []
    for _ in range(25):
        losses.append(one.forward_backward("a", data).metrics["loss:sum"])
        one.optim_step("a", AdamParams(learning_rate=1e-2))
    assert losses[-1] < 0.5 * losses[0]


def test_many_targets_per_position(one, make_module, reference):
    """(N, K) targets, beside datums of another K in the same call."""
    rng = np.random.default_rng(0)
    data = []
    for length, width in ((6, 3), (4, 0), (5, 2)):
        shape = (length, width) if width else (length,)
        tokens = rng.integers(0, 128, length)
        inputs = {"target_tokens": rng.integers(0, 128, shape), "weights": rng.normal(size=shape).astype(np.float32)}
        data.append(Datum(ModelInput.from_ints(tokens), inputs))
    plain = reference(make_module("qwen3"), one.adapter("a"))
    loss, logprobs = plain.cross_entropy(data)
    output = one.forward_backward("a", data)
    assert [o["logprobs"].shape for o in output.loss_fn_outputs] == [[6, 3], [4], [5, 2]]
    for got, want in zip(output.loss_fn_outputs, logprobs, strict=True):
        np.testing.assert_allclose(got["logprobs"].to_numpy().reshape(want.shape), want, rtol=0, atol=1e-5)
    assert output.metrics["loss:sum"] == pytest.approx(float(loss), rel=1e-5)
    for name, gradient in one.adapter("a").named_gradients().items():
        torch.testing.assert_close(gradient, plain.gradient(name), rtol=1e-4, atol=1e-4, msg=name)


def test_custom_loss_through_weights(one, data):
    """d loss / d logprobs comes from outside; here of a quadratic, checked against a registered loss's gradient."""
    scored = one.forward("a", data)
    logprobs = [o["logprobs"].to_numpy() for o in scored.loss_fn_outputs]
    one.backward_with("a", data, [2 * lp for lp in logprobs])  # loss = sum lp^2
    by_weights = one.adapter("a").grads.clone()
    one.optim_step("a", AdamParams(learning_rate=0.0))
    targets = []
    for datum, lp in zip(data, logprobs, strict=True):
        inputs = {"target_tokens": datum.loss_fn_inputs["target_tokens"], "advantages": np.zeros_like(lp)}
        targets.append(Datum(datum.model_input, {**inputs, "logprobs": lp + 1}))
    one.forward_backward("a", targets, "dro", {"beta": 1.0})  # d/dlp = lp - q = -1 at every token
    by_dro = one.adapter("a").grads.clone()
    one.optim_step("a", AdamParams(learning_rate=0.0))
    one.backward_with("a", data, [np.full_like(lp, -1.0) for lp in logprobs])
    torch.testing.assert_close(one.adapter("a").grads, by_dro, rtol=1e-4, atol=1e-5)
    assert not torch.allclose(by_weights, by_dro)


def test_rows_without_loss_can_skip_the_head(make_engine, datum, lora, wake):
    weights = np.concatenate([np.zeros(9), np.ones(4)]).astype(np.float32)
    data = [datum(13, 1, weights=weights), datum(6, 2, weights=np.zeros(6)), datum(5, 3)]
    results = []
    for every in (True, False):
        engine = make_engine()
        wake(engine.adapter(engine.create_adapter(lora(), "a")))
        (output,) = engine.run([Request("a", data, all_logprobs=every)])
        results.append((output, engine.adapter("a").grads))
    (full, full_grads), (short, short_grads) = results
    assert short.metrics == pytest.approx(full.metrics, rel=1e-5)
    assert full.metrics["num_loss_tokens:sum"] == 9
    torch.testing.assert_close(short_grads, full_grads, rtol=1e-4, atol=1e-5)
    scored = [o["logprobs"].to_numpy() for o in short.loss_fn_outputs]
    assert np.isnan(scored[0][:9]).all()
    assert np.isnan(scored[1]).all()
    np.testing.assert_allclose(scored[0][9:], full.loss_fn_outputs[0]["logprobs"].to_numpy()[9:], atol=1e-5)


@pytest.mark.parametrize("family", ["qwen3", "mixtral"])
def test_a_small_memory_budget_checkpoints_and_changes_nothing(family, make_module, data, lora, wake):
    results = []
    base = BaseModel.from_module(make_module(family, num_hidden_layers=3))
    roomy = MemoryPlan.of(base, None, 1 << 30)
    least = 41 * (roomy.thin * 3 + roomy.layer)
    for budget in (1 << 30, least + 41 * (roomy.layer - roomy.thin), least):
        engine = Engine(base, memory_bytes=budget)
        wake(engine.adapter(engine.create_adapter(lora(), "a")))
        output = engine.forward_backward("a", data)
        layers = MemoryPlan.of(base, None, budget).checkpoint_layers(41)
        results.append((layers, _logprobs(output), engine.adapter("a").grads))
    assert [r[0] for r in results] == [0, 2, 3]
    for _, logprobs, grads in results[1:]:
        assert np.array_equal(logprobs, results[0][1])
        assert torch.equal(grads, results[0][2])


def test_a_tiny_memory_budget_makes_passes_smaller(make_engine):
    base = make_engine().base
    plan = MemoryPlan.of(base, None, 1 << 20)
    assert (
        plan.tokens * (plan.thin * plan.num_layers + plan.layer)
        <= 1 << 20
        < (plan.tokens + 1) * (plan.thin * plan.num_layers + plan.layer)
    )
    assert MemoryPlan.of(base, 50, None).tokens == 50


@pytest.mark.parametrize("pending", [False, True])
def test_a_failing_pass_leaves_the_gradients_alone(pending, make_engine, data, lora, wake, monkeypatch):
    engine = make_engine(tokens_per_pass=15)
    adapter = engine.adapter(engine.create_adapter(lora(), "a"))
    wake(adapter)
    if pending:
        engine.forward_backward("a", data)
    before = adapter.grads.clone()
    score, calls = type(engine.base.head).score, []

    def failing(self, *args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise MemoryError("full")
        return score(self, *args, **kwargs)

    monkeypatch.setattr(type(engine.base.head), "score", failing)
    with pytest.raises(MemoryError):
        engine.forward_backward("a", data)
    assert len(calls) == 3
    assert torch.equal(adapter.grads, before)
    monkeypatch.undo()
    assert engine.forward("a", data).metrics["num_tokens:sum"] == 41


def test_passes_cover_every_datum_once_within_budget(one, datum):
    rng = np.random.default_rng(0)
    requests = [
        one.check(Request("a", [datum(int(n), 0) for n in rng.integers(1, 40, size)])) for size in (13, 0, 1, 7)
    ]
    passes = plan_passes(requests, [3, 0, 2, 1], budget=60)
    items = [(i.request, i.datum) for p in passes for i in p]
    assert items == [(r, d) for r in (3, 0, 2, 1) for d in range(len(requests[r].data))]
    sizes = [sum(i.length for i in p) for p in passes]
    assert max(sizes) <= 60
    assert len(plan_passes(requests, [0], budget=1)) == 13


def test_no_data_is_no_work(one):
    output = one.forward_backward("a", [])
    assert output.loss_fn_outputs == []
    assert output.metrics["loss:sum"] == 0.0


def test_wide_targets_beside_a_sequence_loss(one, rl):
    """Requests of different widths share a pass; each is as alone."""
    rng = np.random.default_rng(0)
    inputs = {"target_tokens": rng.integers(0, 128, (9, 3)), "weights": rng.normal(size=(9, 3))}
    wide = Datum(ModelInput.from_ints(rng.integers(0, 128, 9)), inputs)
    requests = [Request("a", [wide]), Request("a", _rl_data(rl, "gspo"), "gspo")]
    adapter = one.adapter("a")
    alone, grads = [], torch.zeros_like(adapter.grads)
    for request in requests:
        alone += one.run([request])
        grads += adapter.grads
        one.clear_gradients("a")
    for got, want in zip(one.run(requests), alone, strict=True):
        assert got.metrics == pytest.approx(want.metrics, rel=1e-5)
        np.testing.assert_allclose(_logprobs(got), _logprobs(want), atol=1e-5)
    torch.testing.assert_close(adapter.grads, grads, rtol=1e-4, atol=1e-5)

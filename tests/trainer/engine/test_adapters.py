"""What each flag trains, seeds, layout, state; AdamW against torch's."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from renderers import OptionError, UserError  # noqa: E402
from trainer.engine.optimizer import adamw_step  # noqa: E402
from trainer.protocol import AdamParams, LoraConfig  # noqa: E402

ATTN = {"q_proj", "k_proj", "v_proj", "o_proj"}
MLP = {"gate_proj", "up_proj", "down_proj"}


@pytest.mark.parametrize(
    ("flags", "trained"),
    [
        ({}, ATTN | MLP | {"lm_head"}),
        ({"train_unembed": False}, ATTN | MLP),
        ({"train_mlp": False}, ATTN | {"lm_head"}),
        ({"train_attn": False}, MLP | {"lm_head"}),
        ({"train_attn": False, "train_mlp": False}, {"lm_head"}),
        ({"train_attn": False, "train_unembed": False}, MLP),
    ],
)
def test_flags_decide_what_is_trained(flags, trained, make_engine, data, lora, wake):
    engine = make_engine()
    adapter_id = engine.create_adapter(lora(**flags))
    adapter = engine.adapter(adapter_id)
    wake(adapter)
    before = {n: v.clone() for n, v in adapter.named_parameters().items()}
    assert {name.split(".")[-2] for name in before} == trained
    base = {n: p.clone() for n, p in engine.base.module.named_parameters()}
    engine.forward_backward(adapter_id, data)
    engine.optim_step(adapter_id, AdamParams(learning_rate=1e-2))
    for name, values in adapter.named_parameters().items():
        assert not torch.equal(values, before[name]), name
    for name, values in engine.base.module.named_parameters():
        assert torch.equal(values, base[name]), name


@pytest.mark.parametrize(
    ("family", "sites"),
    [
        ("phi3", {"qkv_proj", "o_proj", "gate_up_proj", "down_proj", "lm_head"}),
        ("mixtral", ATTN | {"gate_up_proj", "down_proj", "lm_head"}),
        ("qwen2-moe", ATTN | MLP | {"gate_up_proj", "lm_head"}),
    ],
)
def test_sites_follow_the_module(family, sites, make_engine, lora):
    engine = make_engine(family)
    adapter = engine.adapter(engine.create_adapter(lora()))
    assert {name.split(".")[-2] for name in adapter.named_parameters()} == sites
    modules = dict(engine.base.module.named_modules()) | dict(engine.base.module.named_parameters())
    for name in adapter.named_parameters():
        assert name.rsplit(".", 1)[0] in modules


def test_layout_tiles_the_buffer(make_engine, lora):
    engine = make_engine("qwen2-moe")
    adapter = engine.adapter(engine.create_adapter(lora(rank=3)))
    seen = torch.zeros(adapter.layout.size, dtype=torch.int64)
    for _, view in adapter.layout.named(seen):
        view.add_(1)
    assert bool((seen == 1).all())


def test_seed_and_initial_values(make_engine, lora, data):
    engine = make_engine()
    same = [engine.adapter(engine.create_adapter(lora(seed=s))) for s in (3, 3, 4)]
    assert torch.equal(same[0].params, same[1].params)
    assert not torch.equal(same[0].params, same[2].params)
    unseeded = [engine.adapter(engine.create_adapter(lora(seed=None))) for _ in range(2)]
    assert not torch.equal(unseeded[0].params, unseeded[1].params)
    for name, values in same[0].named_parameters().items():
        if name.endswith("lora_B"):
            assert not values.any()
        else:
            bound = values.shape[-1] ** -0.5
            assert 0.8 * bound < float(values.abs().max()) <= bound
    # B is zero, so a new adapter is the base
    fresh = engine.forward("adapter-0", data)
    other = engine.forward("adapter-2", data)
    assert fresh.metrics == other.metrics


def test_alpha_is_the_numerator(make_engine, lora, data, wake):
    engine = make_engine()
    ids = [engine.create_adapter(lora(alpha=a)) for a in (32.0, 8.0)]
    assert engine.adapter(ids[0]).config.scale == 8.0
    for adapter_id in ids:
        wake(engine.adapter(adapter_id))
    for name, values in engine.adapter(ids[1]).named_parameters().items():
        if name.endswith("lora_B"):
            values.mul_(4)
    losses = [engine.forward(i, data).metrics["loss:sum"] for i in ids]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_state_round_trip_continues_bit_equal(make_engine, lora, data):
    engine = make_engine()
    first, second = (engine.create_adapter(lora(seed=s)) for s in (1, 2))

    def step(adapter_id):
        loss = engine.forward_backward(adapter_id, data).metrics["loss:sum"]
        return loss, engine.optim_step(adapter_id, AdamParams(learning_rate=1e-2)).metrics

    for _ in range(3):
        step(first)
    engine.load_state(second, engine.state_dict(first))
    assert [step(first) for _ in range(2)] == [step(second) for _ in range(2)]
    engine.load_state(second, engine.state_dict(first), optimizer=False)
    assert step(second)[1]["step"] == 1
    with pytest.raises(OptionError, match="expected exp_avg; got params"):
        engine.load_state(second, engine.state_dict(first, optimizer=False))
    with pytest.raises(OptionError, match="params: expected"):
        engine.load_state(engine.create_adapter(lora(rank=2)), engine.state_dict(first))


def test_snapshot_is_never_touched(make_engine, lora, data):
    engine = make_engine()
    adapter_id = engine.create_adapter(lora())
    snapshot = engine.snapshot(adapter_id)
    before = snapshot.parts["lm_head"].a.clone()
    engine.forward_backward(adapter_id, data)
    engine.optim_step(adapter_id, AdamParams(learning_rate=1.0, weight_decay=0.1))
    assert torch.equal(snapshot.parts["lm_head"].a, before)
    assert snapshot.parts["lm_head"].grad_a is None
    assert engine.snapshot(adapter_id).version == snapshot.version + 1


@pytest.mark.parametrize(
    "params",
    [
        AdamParams(learning_rate=1e-3),
        AdamParams(learning_rate=1e-3, weight_decay=0.1, beta1=0.8, beta2=0.99, eps=1e-6),
        AdamParams(learning_rate=1e-2, grad_clip_norm=0.5),
    ],
)
def test_adamw_equals_torch(params, make_engine, lora):
    engine = make_engine()
    adapter = engine.adapter(engine.create_adapter(lora()))
    mirror = torch.nn.Parameter(adapter.params.clone())
    plain = torch.optim.AdamW(
        [mirror], lr=params.learning_rate, betas=(params.beta1, params.beta2), eps=params.eps,
        weight_decay=params.weight_decay,
    )  # fmt: skip
    generator = torch.Generator().manual_seed(0)
    for step in range(1, 6):
        gradient = torch.randn(adapter.params.shape, generator=generator) * 0.1
        before = mirror.detach().clone()
        adapter.grads.add_(gradient)
        mirror.grad = gradient.clone()
        norm = torch.linalg.vector_norm(gradient)
        if params.grad_clip_norm:
            torch.nn.utils.clip_grad_norm_([mirror], params.grad_clip_norm)
        plain.step()
        metrics = adamw_step(adapter, params)
        torch.testing.assert_close(adapter.params, mirror.detach(), rtol=1e-5, atol=1e-7)
        assert metrics["step"] == step
        assert metrics["learning_rate"] == params.learning_rate
        assert metrics["grad_norm"] == pytest.approx(float(norm), rel=1e-5)
        assert metrics["update_norm"] == pytest.approx(float((mirror.detach() - before).norm()), rel=1e-3)
        assert not adapter.grads.any()


def test_gradients_that_are_not_finite_change_nothing(make_engine, lora):
    engine = make_engine()
    adapter = engine.adapter(engine.create_adapter(lora()))
    before = engine.state_dict("adapter-0")
    adapter.grads[3] = float("nan")
    with pytest.raises(UserError, match="expected finite gradients; their norm is nan"):
        engine.optim_step("adapter-0", AdamParams())
    after = engine.state_dict("adapter-0")
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert not adapter.grads.any()


def test_values_check_themselves():
    assert (AdamParams().beta2, AdamParams().eps, LoraConfig().alpha) == (0.95, 1e-12, 32.0)
    for settings, message in [
        ({"rank": 0}, "lora_config.rank: expected an integer of at least 1; got 0"),
        ({"train_mlp": 1}, "lora_config.train_mlp: expected true or false; got 1"),
        ({"train_mlp": False, "train_attn": False, "train_unembed": False}, "expected at least one of"),
        ({"alpha": float("inf")}, "lora_config.alpha: expected a number"),
    ]:
        with pytest.raises(OptionError, match=message):
            LoraConfig(**settings)
    with pytest.raises(OptionError, match=r"adam_params\.beta1: expected a number in \[0.0, 1.0\); got 1"):
        AdamParams(beta1=1.0)
    with pytest.raises(OptionError, match=r"adam_params\.learning_rate: expected a number"):
        AdamParams(learning_rate=-1e-4)


def test_ids(make_engine, lora):
    engine = make_engine()
    assert engine.create_adapter(lora(), "mine") == "mine"
    with pytest.raises(OptionError, match="'mine' exists"):
        engine.create_adapter(lora(), "mine")
    engine.remove_adapter("mine")
    with pytest.raises(OptionError, match="adapter_id: expected one of none; got 'mine'"):
        engine.adapter("mine")

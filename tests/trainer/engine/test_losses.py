"""Every loss against a scalar loop written from its formula, values and gradients; the registry's refusals."""

from __future__ import annotations

import math

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from renderers import OptionError  # noqa: E402
from trainer.engine import LOSSES, LossInputs, register_loss  # noqa: E402
from trainer.engine.losses import find_loss  # noqa: E402

LENGTHS = (5, 1, 9)


def _case():
    rng = np.random.default_rng(0)
    n = sum(LENGTHS)
    tensors = {
        "weights": rng.normal(size=n),
        "logprobs": -2 + 0.5 * rng.normal(size=n),
        "advantages": rng.normal(size=n) * (rng.random(n) > 0.2),
        "sequence_ratio_mask": (rng.random(n) > 0.3).astype(float),
    }
    logprobs = torch.tensor(-2 + 0.5 * rng.normal(size=n), dtype=torch.float64, requires_grad=True)
    sequence = torch.repeat_interleave(torch.arange(len(LENGTHS)), torch.tensor(LENGTHS))
    inputs = LossInputs({k: torch.tensor(v, dtype=torch.float64) for k, v in tensors.items()}, sequence, len(LENGTHS))
    return logprobs, inputs, tensors


def _clip(value, low, high):
    return min(max(value, low), high)


def _loop(name, lp, t, i, settings):
    """One token's loss and d loss / d lp, in plain Python. `lp` is the list of all logprobs."""
    q, a, w = t["logprobs"][i], t["advantages"][i], t["weights"][i]
    low, high = settings.get("clip_low_threshold"), settings.get("clip_high_threshold")
    ratio = math.exp(lp[i] - q)
    if name == "cross_entropy":
        return -w * lp[i], -w
    if name == "importance_sampling":
        return -ratio * a, -ratio * a
    if name == "cispo":
        return -_clip(ratio, low, high) * lp[i] * a, -_clip(ratio, low, high) * a
    if name == "dro":
        return -(lp[i] * a - settings["beta"] / 2 * (lp[i] - q) ** 2), -(a - settings["beta"] * (lp[i] - q))
    if name == "gspo":
        start = 0
        for length in LENGTHS:
            if start <= i < start + length:
                members = [j for j in range(start, start + length) if t["sequence_ratio_mask"][j] != 0]
            start += length
        gaps = [lp[j] - t["logprobs"][j] for j in members]
        ratio = math.exp(sum(gaps) / len(gaps)) if gaps else 1.0
    unclipped, clipped = ratio * a, _clip(ratio, low, high) * a
    # d s_t / d lp_t = s_t, in ppo and in gspo alike; the clipped branch is flat
    return -min(unclipped, clipped), (-ratio * a if unclipped <= clipped else 0.0)


CASES = [
    ("cross_entropy", {}),
    ("importance_sampling", {}),
    ("ppo", {}),
    ("ppo", {"clip_low_threshold": 0.95, "clip_high_threshold": 1.05}),
    ("cispo", {}),
    ("cispo", {"clip_low_threshold": 0.8, "clip_high_threshold": 1.1}),
    ("dro", {"beta": 0.3}),
    ("gspo", {}),
    ("gspo", {"clip_low_threshold": 0.9, "clip_high_threshold": 1.3}),
]


@pytest.mark.parametrize(("name", "config"), CASES)
def test_formula(name, config):
    logprobs, inputs, tensors = _case()
    loss = find_loss(name)
    settings = loss.settings(config)
    per_token = loss.function(logprobs, inputs, settings)
    per_token.sum().backward()
    values = logprobs.detach().tolist()
    expected = [_loop(name, values, tensors, i, settings) for i in range(len(values))]
    np.testing.assert_allclose(per_token.detach().numpy(), [e[0] for e in expected], rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(logprobs.grad.numpy(), [e[1] for e in expected], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["ppo", "cispo", "gspo"])
def test_per_token_thresholds_win_over_config(name):
    logprobs, inputs, tensors = _case()
    rng = np.random.default_rng(1)
    low, high = 1 - 0.3 * rng.random(len(logprobs)), 1 + 0.3 * rng.random(len(logprobs))
    extra = {"clip_low_threshold": torch.tensor(low), "clip_high_threshold": torch.tensor(high)}
    inputs = LossInputs({**inputs.tensors, **extra}, inputs.sequence, inputs.num_sequences)
    loss = find_loss(name)
    per_token = loss.function(logprobs, inputs, loss.settings(None))
    values = logprobs.detach().tolist()
    expected = [
        _loop(name, values, tensors, i, {"clip_low_threshold": low[i], "clip_high_threshold": high[i]})[0]
        for i in range(len(values))
    ]
    np.testing.assert_allclose(per_token.detach().numpy(), expected, rtol=1e-12, atol=1e-12)


def test_documented_defaults():
    assert find_loss("ppo").settings(None) == {"clip_low_threshold": 0.8, "clip_high_threshold": 1.2}
    assert find_loss("cispo").settings(None) == {"clip_low_threshold": 0.0, "clip_high_threshold": 4.0}


def test_refusals_name_the_field():
    with pytest.raises(OptionError, match=r"loss_fn: expected one of cispo, cross_entropy, .*got 'nll'"):
        find_loss("nll")
    with pytest.raises(OptionError, match=r"loss_fn_config\.epsilon: expected clip_high_threshold, clip_low_threshold"):
        find_loss("ppo").settings({"epsilon": 0.2})
    with pytest.raises(OptionError, match=r"loss_fn_config\.clip_low_threshold: expected a number; got 'low'"):
        find_loss("ppo").settings({"clip_low_threshold": "low"})
    with pytest.raises(OptionError, match=r"loss_fn_config\.beta: dro expects a number; got none"):
        find_loss("dro").settings(None)
    with pytest.raises(OptionError, match=r"clip_low_threshold: expected at most 1.2; got 2"):
        find_loss("ppo").settings({"clip_low_threshold": 2})


def test_a_third_party_loss(make_engine, datum, lora):
    def square(logprobs, inputs, config):
        return config["strength"] * inputs["weights"] * logprobs.square()

    register_loss("test_square", required=("weights",), config={"strength": 0.5})(square)
    try:
        with pytest.raises(OptionError, match="'test_square' is registered"):
            register_loss("test_square", required=())(square)
        engine = make_engine()
        adapter_id = engine.create_adapter(lora())
        one = datum(9, 0)
        output = engine.forward_backward(adapter_id, [one], "test_square", {"strength": 2.0})
        logprobs = output.loss_fn_outputs[0]["logprobs"].to_numpy().astype(np.float64)
        weights = one.loss_fn_inputs["weights"].to_numpy()
        assert output.metrics["loss:sum"] == pytest.approx(float((2 * weights * logprobs**2).sum()), rel=1e-5)
    finally:
        del LOSSES["test_square"]

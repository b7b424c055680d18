"""Every fault a caller can make is refused before any work, with place, expectation and value."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")
from renderers import Datum, EncodedTextChunk, ImageChunk, ModelInput, UserError  # noqa: E402
from trainer.engine import Request  # noqa: E402

GOOD = {"target_tokens": [1, 2, 3], "weights": [1.0, 0.0, 1.0]}
RL = {"target_tokens": [1, 2, 3], "logprobs": [-1.0, -1.0, -1.0], "advantages": [1.0, 1.0, 1.0]}


@pytest.fixture
def engine(make_engine, lora):
    engine = make_engine()
    engine.create_adapter(lora(), "a")
    return engine


@pytest.mark.parametrize(
    ("tokens", "inputs", "loss", "message"),
    [
        ([1, 2, 3], {"target_tokens": [1, 2, 3]}, "cross_entropy",
         r"data\[1\]\.loss_fn_inputs\.weights: cross_entropy expects it; got target_tokens"),
        ([1, 2, 3], {"weights": [1.0, 1.0, 1.0]}, "cross_entropy",
         r"data\[1\]\.loss_fn_inputs\.target_tokens: cross_entropy expects it; got weights"),
        ([1, 2, 3], {**GOOD, "weights": [1.0, 2.0]}, "cross_entropy",
         r"data\[1\]\.loss_fn_inputs\.weights: expected shape \(3,\), as target_tokens; got \(2,\)"),
        ([1, 2], GOOD, "cross_entropy",
         r"target_tokens: expected shape \(2,\) or \(2, K\), as model_input has 2 tokens; got \(3,\)"),
        ([1, 2, 3], {**GOOD, "mask": [1, 1, 1]}, "cross_entropy",
         r"loss_fn_inputs\.mask: expected target_tokens, weights for cross_entropy; got 'mask'"),
        ([1, 2, 3], {**GOOD, "weights": [1.0, np.nan, 1.0]}, "cross_entropy",
         r"weights: expected finite numbers; got nan at position 1"),
        ([1, 128, 3], GOOD, "cross_entropy",
         r"data\[1\]\.model_input: expected token ids from 0 to 127; got 128 at position 1"),
        ([1, 2, 3], {**GOOD, "target_tokens": [1, -100, 3]}, "cross_entropy",
         r"target_tokens: expected token ids .*got -100"),
        ([], {"target_tokens": np.zeros(0, np.int64), "weights": []}, "cross_entropy",
         r"model_input: expected at least one token"),
        ([1] * 65, GOOD, "cross_entropy", r"expected at most 64 tokens, the model's context; got 65"),
        ([1, 2, 3], {**RL, "advantages": [1.0]}, "ppo", r"advantages: expected shape \(3,\)"),
        ([1, 2, 3], GOOD, "ppo", r"loss_fn_inputs\.logprobs: ppo expects it; got target_tokens, weights"),
        ([1, 2, 3], {**RL, "target_tokens": [[1, 2], [1, 2], [1, 2]]}, "ppo",
         r"target_tokens: expected shape \(3,\), as"),
        ([1, 2, 3], {**RL, "clip_low_threshold": [0.5, 0.5, 0.5]}, "ppo",
         r"data\[0\].*clip_low_threshold: expected it, as data\[1\]"),
    ],
)  # fmt: skip
def test_refused_with_the_field(tokens, inputs, loss, message, engine):
    good = Datum(ModelInput.from_ints([4, 5, 6]), GOOD if loss == "cross_entropy" else RL)
    before = engine.adapter("a").grads.clone()
    with pytest.raises(UserError, match=message):
        engine.forward_backward("a", [good, Datum(ModelInput.from_ints(tokens), inputs)], loss)
    assert torch.equal(engine.adapter("a").grads, before)


def test_an_image_is_refused(engine):
    model_input = ModelInput([EncodedTextChunk([1]), ImageChunk(b"", "png", 2)])
    with pytest.raises(UserError, match=r"data\[0\]\.model_input\.chunks\[1\]: expected encoded_text; got image"):
        engine.forward("a", [Datum(model_input, GOOD)])


def test_one_bad_request_stops_all_of_a_shared_call(engine, datum):
    with pytest.raises(UserError, match="adapter_id: expected one of a; got 'b'"):
        engine.forward_backward_many([Request("a", [datum(4, 0)]), Request("b", [datum(4, 0)])])
    assert not engine.adapter("a").grads.any()


def test_weights_beside_an_rl_loss_are_reported(engine, caplog):
    engine.forward("a", [Datum(ModelInput.from_ints([1, 2, 3]), {**RL, "weights": [1.0, 1.0, 1.0]})], "ppo")
    assert "loss_fn_inputs.weights is not read by ppo" in caplog.text

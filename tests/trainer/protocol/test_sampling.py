"""`SamplingParams` refuses by field name; responses give numpy and lists."""

from __future__ import annotations

import numpy as np
import pytest

from renderers import OptionError
from trainer.protocol import SampledSequence, SampleResponse, SamplingParams, TopkLogprobs


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"max_tokens": -1}, "sampling_params.max_tokens: expected an integer of at least 0 or None; got -1"),
        ({"max_tokens": 2.0}, "sampling_params.max_tokens"),
        ({"seed": "x"}, "sampling_params.seed"),
        ({"temperature": -0.1}, "sampling_params.temperature"),
        ({"temperature": float("nan")}, "sampling_params.temperature"),
        ({"temperature": None}, "sampling_params.temperature"),
        ({"top_k": 0}, "sampling_params.top_k"),
        ({"top_p": 0.0}, "sampling_params.top_p"),
        ({"top_p": 1.1}, "sampling_params.top_p"),
        ({"stop": ""}, "sampling_params.stop"),
        ({"stop": 5}, "sampling_params.stop"),
        ({"stop": ["a", ""]}, r"sampling_params.stop\[1\]"),
        ({"stop": ["a", 3]}, r"sampling_params.stop\[1\]"),
        ({"stop": [3, "a"]}, r"sampling_params.stop\[1\]"),
        ({"stop": [-3]}, r"sampling_params.stop\[0\]"),
    ],
)
def test_refused(arguments, message):
    with pytest.raises(OptionError, match=f"^{message}"):
        SamplingParams(**arguments)


def test_defaults_are_the_sdks():
    assert SamplingParams() == SamplingParams(None, None, None, 1.0, -1, 1.0)


@pytest.mark.parametrize(
    ("stop", "strings", "tokens"),
    [(None, (), {2}), ([], (), set()), ("a", ("a",), set()), (["a", "b"], ("a", "b"), set()), ([5, 6], (), {5, 6})],
)
def test_what_stops(stop, strings, tokens):
    params = SamplingParams(stop=stop)
    assert params.stop_strings == strings
    assert params.stop_tokens([2]) == tokens


def test_lists():
    topk = TopkLogprobs(np.array([[0, 0], [4, 0]], np.int32), np.array([[-99999, -99999], [-0.5, -99999]], np.float32))
    sequence = SampledSequence("stop", tokens_np=np.array([4], np.int32), logprobs_np=np.array([-0.5], np.float32))
    response = SampleResponse([sequence], np.array([np.nan, -0.5], np.float32), topk)
    assert response.prompt_logprobs == [None, -0.5]
    assert response.topk_prompt_logprobs == [None, [(4, -0.5)]]
    assert (sequence.tokens, sequence.logprobs, sequence.topk_logprobs) == ([4], [-0.5], None)

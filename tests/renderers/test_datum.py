from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renderers import (
    Datum,
    EncodedTextChunk,
    ImageChunk,
    InputError,
    ModelInput,
    OptionError,
    count_trained,
    mean_weights,
    shift_block,
    to_datum,
)

sequences = st.lists(st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.0, 0.5, 1.0])), max_size=5), max_size=6)


def flat(block):
    offsets = np.concatenate([[0], np.cumsum([len(s) for s in block])]).astype(np.int64)
    tokens = np.array([t for s in block for t, _ in s], np.int32)
    weights = np.array([w for s in block for _, w in s], np.float32)
    return tokens, weights, offsets


@given(sequences)
@settings(derandomize=True, max_examples=200)
def test_shift_block_is_the_shift_of_each_sequence(block):
    inputs, targets, weights, offsets = shift_block(*flat(block))
    assert (inputs.dtype, targets.dtype, weights.dtype, offsets.dtype) == (np.int32, np.int32, np.float32, np.int64)
    assert len(offsets) == len(block) + 1
    for i, sequence in enumerate(block):
        tokens = [t for t, _ in sequence]
        here = slice(offsets[i], offsets[i + 1])
        assert inputs[here].tolist() == tokens[:-1]
        assert targets[here].tolist() == tokens[1:]
        assert weights[here].tolist() == [w for _, w in sequence][1:]


@given(sequences)
@settings(derandomize=True, max_examples=100)
def test_counts_and_means_are_those_of_each_sequence(block):
    _, weights, offsets = flat(block)
    counts = count_trained(weights, offsets)
    means, without_mean = mean_weights(weights, offsets)
    assert len(without_mean) == 0
    assert means.dtype == np.float32
    for i, sequence in enumerate(block):
        own = [w for _, w in sequence]
        assert counts[i] == sum(w != 0 for w in own)
        expected = [w / sum(own) for w in own] if any(own) else own
        np.testing.assert_allclose(means[offsets[i] : offsets[i + 1]], expected, rtol=1e-6)


def test_to_datum_shifts_tokens_and_weights():
    datum = to_datum([5, 6, 7, 8], [0, 0, 1, 0.5])
    assert datum == Datum(ModelInput.from_ints([5, 6, 7]), {"target_tokens": [6, 7, 8], "weights": [0, 1, 0.5]})
    assert datum.loss_fn_inputs["target_tokens"].dtype == "int64"
    assert datum.loss_fn_inputs["weights"].dtype == "float32"


def test_to_datum_takes_a_model_input():
    assert to_datum(ModelInput.from_ints([5, 6]), [0, 1]) == to_datum([5, 6], [0, 1])


def test_to_datum_cuts_before_the_shift():
    datum = to_datum([5, 6, 7, 8], [0, 1, 1, 1], max_length=3)
    assert datum.model_input.to_ints() == [5, 6]
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [6, 7]


def test_mean_makes_the_weights_sum_to_one():
    weights = to_datum([1, 2, 3, 4], [9, 1, 0, 3], reduction="mean").loss_fn_inputs["weights"].tolist()
    assert weights == [0.25, 0.0, 0.75]


def image(length: int) -> ImageChunk:
    return ImageChunk(b"png", "png", length)


def test_image_positions_have_target_0():
    model_input = ModelInput([EncodedTextChunk([5, 6]), image(3), EncodedTextChunk([7, 8])])
    datum = to_datum(model_input, [0, 0, 0, 0, 0, 1, 1])
    assert datum.model_input == ModelInput([EncodedTextChunk([5, 6]), image(3), EncodedTextChunk([7])])
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [6, 0, 0, 0, 7, 8]
    assert datum.loss_fn_inputs["weights"].tolist() == [0, 0, 0, 0, 1, 1]


def test_an_image_right_before_the_last_token_stays_in_the_input():
    datum = to_datum(ModelInput([EncodedTextChunk([5]), image(2), EncodedTextChunk([7])]), [0, 0, 0, 1])
    assert datum.model_input == ModelInput([EncodedTextChunk([5]), image(2)])
    assert datum.loss_fn_inputs["target_tokens"].tolist() == [0, 0, 7]


@pytest.mark.parametrize("max_length", [2, 3, 4, None])
def test_images_without_text_after_them_are_left_out(max_length):
    datum = to_datum(ModelInput([EncodedTextChunk([5, 6]), image(3)]), [0, 1, 0, 0, 0], max_length=max_length)
    assert datum == to_datum([5, 6], [0, 1])


@pytest.mark.parametrize(
    ("tokens", "weights", "reason"),
    [
        ([1, 2], [1], "length_mismatch"),
        ([], [], "too_short"),
        ([1], [1], "too_short"),
        ([1, 2], [1, 0], "no_trained_tokens"),
        (ModelInput([image(2), EncodedTextChunk([1, 2])]), [0, 1, 0, 1], "weighted_image"),
    ],
)
def test_what_cannot_train_is_refused(tokens, weights, reason):
    with pytest.raises(InputError) as caught:
        to_datum(tokens, weights)
    assert caught.value.reason == reason


def test_weights_without_a_mean_are_refused():
    with pytest.raises(InputError, match="sum above 0; got -1"):
        to_datum([1, 2, 3], [0, 1, -2], reduction="mean")


@pytest.mark.parametrize("options", [{"max_length": 1}, {"reduction": "sum"}])
def test_impossible_options_are_refused(options):
    with pytest.raises(OptionError, match=next(iter(options))):
        to_datum([1, 2], [0, 1], **options)

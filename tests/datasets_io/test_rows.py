from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import (
    ROLE_CODES,
    BatchView,
    Provenance,
    RowLayout,
    Segments,
    ShardReader,
    datum_to_row,
    row_to_datum,
    rows_to_batch,
)
from renderers import ROLES, Datum, EncodedTextChunk, ImageChunk, InputError, ModelInput, TensorData
from tests.datasets_io.shard_samples import write_folder

floats = st.floats(width=32)
ids = st.integers(0, 2**31 - 1)


@st.composite
def tensors(draw, length: int, elements, dtype: str, dims: int):
    shape = (length, *draw(st.lists(st.integers(1, 3), min_size=dims, max_size=dims)))
    size = int(np.prod(shape))
    return TensorData(draw(st.lists(elements, min_size=size, max_size=size)), dtype, shape)


@st.composite
def datums(draw):
    """Any datum that trains: text in one chunk, images, inputs of any rank, some absent."""
    chunks = []
    for length in draw(st.lists(st.integers(1, 4), min_size=1, max_size=4)):
        follows_text = bool(chunks) and isinstance(chunks[-1], EncodedTextChunk)
        if follows_text or draw(st.booleans()):
            chunks.append(ImageChunk(b"", draw(st.sampled_from(["png", "jpeg"])), length, draw(st.text(min_size=1))))
        else:
            chunks.append(EncodedTextChunk(draw(st.lists(ids, min_size=length, max_size=length))))
    length = sum(chunk.length for chunk in chunks)
    inputs = {}
    if draw(st.booleans()):
        inputs["target_tokens"] = draw(tensors(length, ids, "int64", draw(st.integers(0, 2))))
    if draw(st.booleans()):
        weights = draw(tensors(length, st.floats(-2, 2, width=32), "float32", draw(st.integers(0, 2))))
        weights.to_numpy().flat[0] = 1
        inputs["weights"] = weights
    for name, elements, dtype in (
        ("advantages", floats, "float32"),
        ("mask", st.integers(-(2**63), 2**63 - 1), "int64"),
    ):
        if draw(st.booleans()):
            inputs[name] = draw(tensors(draw(st.integers(0, 3)), elements, dtype, draw(st.integers(0, 2))))
    if draw(st.booleans()):
        inputs["reward"] = TensorData(draw(floats), "float32", ())
    return Datum(ModelInput(chunks), inputs)


@given(st.lists(datums(), max_size=4))
@settings(derandomize=True, max_examples=80, deadline=None)
def test_any_datum_round_trips_through_a_record_batch(examples):
    rows = [datum_to_row(datum) for datum in examples]
    view = BatchView(rows_to_batch(rows))
    view.batch.validate(full=True)
    assert view.layout == RowLayout.of(rows)
    assert [row_to_datum(view.row(i)) for i in range(len(rows))] == examples
    assert view.numbers("num_trained").tolist() == [row.num_trained for row in rows]


def test_datums_of_mixed_kinds_round_trip_through_files(tmp_path):
    examples = [
        Datum(ModelInput.from_ints([1, 2]), {"target_tokens": [2, 3], "weights": [0.0, 1.0]}),
        Datum(ModelInput.from_ints([4]), {"target_tokens": [[5, 6, 7]], "weights": [[0.1, 0.2, 0.7]]}),
        Datum(ModelInput.from_ints([4, 5]), {"logprobs": [-1.0, float("-inf")], "advantages": [0.5, 0.5]}),
        Datum(ModelInput([EncodedTextChunk([1]), ImageChunk(b"", "png", 3, "a.png"), EncodedTextChunk([2])])),
    ]
    write_folder(tmp_path, [datum_to_row(datum) for datum in examples])
    with ShardReader(tmp_path) as reader:
        assert list(reader) == examples


def test_provenance_and_segments_round_trip():
    segments = Segments(np.array([0, 2], np.int32), np.array([-1, 0], np.int16), np.array([-1, 2], np.int8))
    known = Provenance("a.jsonl", 17, 3, 1, "id-1", "pair-1", "chosen", b"0123456789abcdef")
    datum = Datum(ModelInput.from_ints([1, 2]), {"weights": [0, 1]})
    rows = [datum_to_row(datum, known, segments), datum_to_row(datum)]
    view = BatchView(rows_to_batch(rows))
    assert [view.provenance(i) for i in range(2)] == [known, Provenance()]
    stored = view.segments(0)
    assert stored is not None
    assert [part.tolist() for part in stored] == [[0, 2], [-1, 0], [-1, 2]]
    assert view.segments(1) is None


def test_adjacent_text_chunks_become_one():
    datum = Datum(ModelInput([EncodedTextChunk([1]), EncodedTextChunk([2, 3])]))
    assert row_to_datum(datum_to_row(datum)) == Datum(ModelInput.from_ints([1, 2, 3]))


def test_image_bytes_become_their_hash():
    row = datum_to_row(Datum(ModelInput([ImageChunk(b"bytes", "png", 2)])))
    assert row.images[0].location == "sha256:" + hashlib.sha256(b"bytes").hexdigest()
    assert row.tokens.tolist() == [0, 0]


def test_every_role_has_a_code_of_its_own():
    assert set(ROLE_CODES) == set(ROLES)
    assert sorted(ROLE_CODES.values()) == list(range(len(ROLES)))


@pytest.mark.parametrize(
    ("inputs", "reason"),
    [
        ({"target_tokens": [1]}, "length_mismatch"),
        ({"weights": 1.0}, "length_mismatch"),
        ({"weights": [0.0, 0.0]}, "no_trained_tokens"),
        ({"weights": [1.0, float("nan")]}, "not_finite"),
        ({"target_tokens": [1, 2**31]}, "out_of_range"),
        ({"target_tokens": TensorData([1.0, 2.0], "float32")}, "bad_dtype"),
    ],
)
def test_datums_that_cannot_be_stored_are_refused(inputs, reason):
    with pytest.raises(InputError) as caught:
        datum_to_row(Datum(ModelInput.from_ints([1, 2]), inputs))
    assert caught.value.reason == reason


def test_a_datum_without_positions_is_refused():
    with pytest.raises(InputError, match="at least 1 position"):
        datum_to_row(Datum(ModelInput.empty()))


@pytest.mark.parametrize(
    ("datum", "reason"),
    [
        (Datum(ModelInput.from_ints([1]), {"advantages": [1.0]}), "unexpected_loss_input"),
        (Datum(ModelInput.from_ints([1]), {"target_tokens": [[1, 2]]}), "unexpected_shape"),
        (Datum(ModelInput([ImageChunk(b"", "png", 1, "a")])), "unexpected_image"),
    ],
)
def test_rows_outside_the_layout_are_refused(datum, reason):
    with pytest.raises(InputError) as caught:
        rows_to_batch([datum_to_row(datum)], RowLayout())
    assert caught.value.reason == reason


def test_one_name_with_two_dtypes_is_refused():
    rows = [datum_to_row(Datum(ModelInput.from_ints([1]), {"x": value})) for value in ([1], [1.0])]
    with pytest.raises(InputError, match="expected int64 as in other rows; got float32"):
        RowLayout.of(rows)


@pytest.mark.parametrize("name", ["turn", "example"])
def test_numbers_outside_int16_are_refused(name):
    row = datum_to_row(Datum(ModelInput.from_ints([1])), Provenance(**{name: 2**15}))
    with pytest.raises(InputError, match=f"{name}: expected a number within int16; got 32768"):
        rows_to_batch([row])

"""Tinker's data types."""

from __future__ import annotations

import numpy as np
import pytest

from renderers import Datum, EncodedTextChunk, ImageChunk, InputError, ModelInput, TensorData


def test_tensor_data_takes_lists_and_arrays() -> None:
    assert TensorData([1, 2]).dtype == "int64"
    assert TensorData([1.0, 2]).dtype == "float32"
    tensor = TensorData([[1, 2], [3, 4]])
    assert tensor.shape == [2, 2]
    assert tensor.data == [1, 2, 3, 4]
    assert tensor.tolist() == [[1, 2], [3, 4]]
    assert TensorData([1, 2, 3, 4], dtype="float32", shape=[2, 2]) == TensorData(np.array([[1, 2], [3, 4]], np.float32))
    array = np.arange(3, dtype=np.int64)
    assert TensorData(array).to_numpy() is array


def test_tensor_data_refuses_what_is_no_number() -> None:
    with pytest.raises(InputError, match="expected numbers; got dtype"):
        TensorData(["a"])
    with pytest.raises(InputError, match="expected float32 or int64"):
        TensorData([1], dtype="int32")  # type: ignore[arg-type]


def test_model_input_counts_images_and_refuses_to_flatten_them() -> None:
    text = EncodedTextChunk(tokens=[1, 2])
    image = ImageChunk(data=b"x", format="png", expected_tokens=5)
    whole = ModelInput(chunks=[text, image])
    assert whole.length == 7
    with pytest.raises(InputError, match=r"chunks\[1\]: expected encoded_text; got image"):
        whole.to_ints()
    with pytest.raises(InputError, match="number of positions"):
        _ = ImageChunk(data=b"x", format="png").length
    assert ModelInput.empty().to_ints() == []
    assert ModelInput.from_ints([1]).append_int(2).to_ints() == [1, 2]
    assert ModelInput.from_ints(np.array([3, 4])).chunks == [EncodedTextChunk(tokens=[3, 4])]


def test_datum_fixes_the_dtypes_of_known_loss_inputs() -> None:
    datum = Datum(
        model_input=ModelInput.from_ints(tokens=[1, 2]),
        loss_fn_inputs={"target_tokens": [2, 3], "weights": [0, 1], "mask": np.array([True, False])},
    )
    assert {name: tensor.dtype for name, tensor in datum.loss_fn_inputs.items()} == {
        "target_tokens": "int64",
        "weights": "float32",
        "mask": "int64",
    }
    assert datum == Datum(ModelInput.from_ints([1, 2]), dict(datum.loss_fn_inputs))
    with pytest.raises(InputError, match="weights: expected a rectangular array"):
        Datum(ModelInput.from_ints([1]), {"weights": [[1], [1, 2]]})


def test_round_trip_through_the_sdk() -> None:
    pytest.importorskip("tinker", reason="the official SDK (extra `remote`) is not installed")
    datum = Datum(
        ModelInput(chunks=[EncodedTextChunk(tokens=[1, 2]), ImageChunk(data=b"x", format="png", expected_tokens=3)]),
        {"target_tokens": [2, 3, 0, 0, 0], "weights": [0.5, 1, 0, 0, 0]},
    )
    assert Datum.from_tinker(datum.to_tinker()) == datum


def test_torch_tensors_are_loss_inputs() -> None:
    torch = pytest.importorskip("torch", reason="torch (extra `train`) is not installed")
    datum = Datum(ModelInput.from_ints([1, 2]), {"weights": torch.tensor([0.5, 1.0], requires_grad=True)})
    assert datum.loss_fn_inputs["weights"].tolist() == [0.5, 1.0]
    assert torch.equal(datum.loss_fn_inputs["weights"].to_torch(), torch.tensor([0.5, 1.0]))

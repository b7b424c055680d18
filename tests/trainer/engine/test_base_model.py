"""Loading from a folder, and the refusals."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from renderers import OptionError  # noqa: E402
from trainer.engine import BaseModel, Engine  # noqa: E402


def test_loads_a_saved_folder(make_module, tmp_path, data, lora):
    make_module("qwen3").save_pretrained(tmp_path)
    saved = BaseModel.load(tmp_path)
    live = BaseModel.from_module(make_module("qwen3"))
    assert (saved.path, saved.dtype, saved.vocab_size, saved.context_length) == ("decoder", torch.float32, 128, 64)
    outputs = []
    for base in (saved, live):
        engine = Engine(base)
        engine.create_adapter(lora(), "a")
        outputs.append(engine.forward("a", data))
    assert outputs[0].metrics == outputs[1].metrics
    assert BaseModel.load(str(tmp_path), dtype="bfloat16").dtype == torch.bfloat16


def test_refusals(tmp_path):
    with pytest.raises(OptionError, match="dtype: expected one of float32, bfloat16; got 'int8'"):
        BaseModel.load(tmp_path, dtype="int8")
    with pytest.raises(OptionError, match="device: expected cpu, cuda or cuda:N; got 'gpu'"):
        BaseModel.load(tmp_path, device="gpu")
    with pytest.raises(OptionError, match="model: expected a causal LM's folder or hub id"):
        BaseModel.load(tmp_path)


def test_a_path_that_disagrees_with_the_module_is_not_taken(make_module, monkeypatch, caplog):
    """A family that changed under us: here the decoder is made to forget the query/key norms."""
    import trainer.engine.families as families

    monkeypatch.setattr(families, "_optional_norm", lambda owner, name: None)
    base = BaseModel.from_module(make_module("qwen3"))
    assert base.path == "module-packed"
    assert "path decoder is not taken: its logits are off by" in caplog.text

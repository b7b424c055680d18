"""What is saved, read back, read by PEFT, and merged."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="the service needs the extra `train`")
peft = pytest.importorskip("peft", reason="PEFT comes with the extra `train`")
from transformers import AutoModelForCausalLM  # noqa: E402

from renderers import OptionError  # noqa: E402
from trainer.engine import BaseModel, Engine, Segment, SequenceBounds  # noqa: E402
from trainer.protocol import AdamParams, LoraConfig, ParsedCheckpointTinkerPath  # noqa: E402
from trainer.service import DamagedCheckpointError, Service, export_archive, export_merged  # noqa: E402
from trainer.service.adapter_files import read_state, write_state  # noqa: E402

TOKENS = torch.tensor([[3, 17, 80, 5, 41, 2, 60, 9]])
ALL = {"train_mlp": True, "train_attn": True, "train_unembed": True}
FLAGS = [ALL, *({**dict.fromkeys(ALL, False), name: True} for name in ALL)]
# What PEFT and transformers say about their own insides.
pytestmark = [
    pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning"),
    pytest.mark.filterwarnings("ignore:.*tie_word_embeddings:UserWarning"),
    pytest.mark.filterwarnings("ignore:fan_in_fan_out is set to:UserWarning"),
]


def awake(engine: Engine, flags: dict[str, bool]) -> str:
    """An adapter whose B is not zero and whose moments are something."""
    adapter_id = engine.create_adapter(LoraConfig(rank=3, seed=5, **flags))
    adapter = engine.adapter(adapter_id)
    generator = torch.Generator().manual_seed(7)
    for buffer in (adapter.params, adapter.exp_avg, adapter.exp_avg_sq):
        buffer.add_(0.02 * torch.randn(buffer.shape, generator=generator))
    adapter.step = 9
    adapter.version += 1
    return adapter_id


def our_logits(engine: Engine, adapter_id: str) -> Any:
    """Through the engine's own trunk and head."""
    base = engine.base
    length = TOKENS.shape[1]
    segments = [Segment(engine.snapshot(adapter_id), 0, length)]
    bounds = SequenceBounds.of([length], base.device)
    with torch.no_grad():
        hidden = base.trunk.hidden(TOKENS[0], torch.arange(length), bounds, segments)
        return base.head.logits(hidden, segments)


@pytest.mark.parametrize("family", ["qwen3", "llama", "phi3", "qwen3_moe", "gpt2"])
@pytest.mark.parametrize("flags", FLAGS, ids=["all", *ALL])
def test_peft_reads_the_folder_and_gives_the_same_logits(
    family: str, flags: dict[str, bool], module_of: Callable[[str], Any], tmp_path: Path
) -> None:
    engine = Engine(BaseModel.from_module(module_of(family), name=family))
    adapter_id = awake(engine, flags)
    adapter = engine.adapter(adapter_id)
    state = adapter.state_dict()
    write_state(tmp_path, engine.base, adapter.layout, state)

    back = read_state(tmp_path, adapter.layout, optimizer=True)
    assert state.keys() == back.keys()
    assert all(torch.equal(state[key], back[key]) for key in state)

    plain = module_of(family)
    base_logits = plain(input_ids=TOKENS, use_cache=False).logits[0]
    model = peft.PeftModel.from_pretrained(plain, str(tmp_path)).eval()
    with torch.no_grad():
        theirs = model(input_ids=TOKENS, use_cache=False).logits[0]
    ours = our_logits(engine, adapter_id)
    assert (theirs - base_logits).abs().max() > 1e-2
    torch.testing.assert_close(ours, theirs, atol=5e-5, rtol=1e-4)


def test_the_config_names_what_is_trained(module_of: Callable[[str], Any], tmp_path: Path) -> None:
    engine = Engine(BaseModel.from_module(module_of("qwen3"), name="org/base"))
    adapter = engine.adapter(awake(engine, {"train_mlp": False, "train_attn": True, "train_unembed": True}))
    write_state(tmp_path, engine.base, adapter.layout, adapter.state_dict(optimizer=False))
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["target_modules"] == ["k_proj", "lm_head", "o_proj", "q_proj", "v_proj"]
    assert (config["base_model_name_or_path"], config["r"], config["lora_alpha"]) == ("org/base", 3, 32.0)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]


def test_a_state_of_another_shape_is_refused(module_of: Callable[[str], Any], tmp_path: Path) -> None:
    engine = Engine(BaseModel.from_module(module_of("qwen3")))
    adapter = engine.adapter(awake(engine, ALL))
    write_state(tmp_path, engine.base, adapter.layout, adapter.state_dict(optimizer=False))
    wider = engine.adapter(engine.create_adapter(LoraConfig(rank=4)))
    narrower = engine.adapter(engine.create_adapter(LoraConfig(rank=3, train_mlp=False)))
    with pytest.raises(DamagedCheckpointError, match=r"lora_A.weight: expected \d+ numbers"):
        read_state(tmp_path, wider.layout, optimizer=False)
    with pytest.raises(DamagedCheckpointError, match=r"names differ, such as .*mlp"):
        read_state(tmp_path, narrower.layout, optimizer=False)
    with pytest.raises(OptionError, match="optimizer: expected a checkpoint saved with its optimizer state"):
        read_state(tmp_path, adapter.layout, optimizer=True)


@pytest.mark.parametrize("family", ["qwen3", "llama", "qwen3_moe"])
def test_merging_equals_the_adapter(
    family: str, make_service: Callable[..., Service], make_run: Callable[..., str], tmp_path: Path, data: list[Any]
) -> None:
    """`llama` has its head tied to the embedding: both would change if they stayed tied."""
    service = make_service(family)
    run = make_run(service)
    for _ in range(2):
        service.forward_backward(run, data)
        service.optim_step(run, AdamParams(learning_rate=0.02))
    path = service.save(run, "sampler", "last").future.result(60).path
    expected = service.forward(run, data).future.result(60)

    out = export_merged(service.checkpoints, path, tmp_path / "merged")
    merged = AutoModelForCausalLM.from_pretrained(out).eval()
    for datum, output in zip(data, expected.loss_fn_outputs, strict=True):
        with torch.no_grad():
            logits = merged(input_ids=torch.tensor([datum.model_input.to_ints()]), use_cache=False).logits[0]
        targets = datum.loss_fn_inputs["target_tokens"].to_torch()
        logprobs = logits.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(logprobs, output["logprobs"].to_torch(), atol=2e-4, rtol=1e-4)
    with pytest.raises(OptionError, match="out: expected a path that is free"):
        export_merged(service.checkpoints, path, out)


def test_an_archive_holds_the_adapter_and_is_the_same_each_time(
    make_service: Callable[..., Service], make_run: Callable[..., str], tmp_path: Path
) -> None:
    service = make_service()
    path = service.save(make_run(service), "training", "one").future.result(60).path
    first = export_archive(service.checkpoints, path, tmp_path / "a.tar.gz")
    second = export_archive(service.checkpoints, path, tmp_path / "b.tar.gz")
    assert first.read_bytes() == second.read_bytes()
    with tarfile.open(first) as tar:
        names = tar.getnames()
        tar.extractall(tmp_path / "out", filter="data")
    assert names == ["adapter_config.json", "adapter_model.safetensors", "metadata.json", "optimizer.safetensors"]
    folder = service.checkpoints.folder(ParsedCheckpointTinkerPath.from_tinker_path(path))  # type: ignore[attr-defined]
    assert (tmp_path / "out" / names[1]).read_bytes() == (folder / names[1]).read_bytes()

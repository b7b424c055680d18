"""The generic decoder against the transformers module, family by family; prefill and decode through one callback."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from trainer.engine import BaseModel, SequenceBounds  # noqa: E402

FAMILY_NAMES = [
    "llama", "llama-tied", "llama-yarn", "llama-dynamic", "qwen2", "qwen2-window", "qwen3", "mistral", "phi3",
    "phi3-longrope", "phi3-partial", "gemma", "gemma2", "gemma3", "mixtral", "qwen2-moe", "qwen3-moe",
]  # fmt: skip
LENGTHS = (9, 1, 30, 12)


def _sequences():
    generator = torch.Generator().manual_seed(5)
    return [torch.randint(0, 128, (length,), generator=generator) for length in LENGTHS]


@pytest.mark.parametrize("family", FAMILY_NAMES)
@torch.no_grad()
def test_packed_equals_module(family, make_module):
    module = make_module(family)
    expected = [make_module(family)(input_ids=s.unsqueeze(0), use_cache=False).logits[0] for s in _sequences()]
    base = BaseModel.from_module(module)
    assert base.path == "decoder"
    bounds = SequenceBounds.of(LENGTHS)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    hidden = base.trunk.hidden(torch.cat(_sequences()), positions, bounds, ())
    logits = base.head.logits(hidden).split(list(LENGTHS))
    for got, want in zip(logits, expected, strict=True):
        torch.testing.assert_close(got, want, rtol=1e-5, atol=2e-5)


def test_fusing_keeps_one_copy(make_module):
    module = make_module("qwen3")
    base = BaseModel.from_module(module)
    qkv = base.decoder.layers[0].qkv
    attn = module.model.layers[0].self_attn
    assert [s.name.rsplit(".", 1)[1] for s in qkv.sites] == ["q_proj", "k_proj", "v_proj"]
    assert attn.k_proj.weight.data_ptr() == qkv.weight[qkv.sites[1].start].data_ptr()
    assert not any(p.requires_grad for p in module.parameters())


def _reference_attend(q, keys, values, spec):
    """One query at the cache's last position."""
    groups = q.shape[1] // keys.shape[1]
    keys, values = keys.repeat_interleave(groups, 1), values.repeat_interleave(groups, 1)
    if spec.window is not None:
        keys, values = keys[-spec.window :], values[-spec.window :]
    scores = torch.einsum("qhd,khd->hqk", q, keys) * spec.scale
    if spec.softcap is not None:
        scores = torch.tanh(scores / spec.softcap) * spec.softcap
    return torch.einsum("hqk,khd->qhd", scores.softmax(-1), values)


@pytest.mark.parametrize("family", ["qwen3", "gemma2", "mistral", "phi3"])
@torch.no_grad()
def test_decode_step_by_step_equals_one_pass(family, make_module):
    """What a sampler does: the same layer code with a cache behind the callback, one token at a time."""
    base = BaseModel.from_module(make_module(family))
    tokens = _sequences()[3]
    positions = torch.arange(len(tokens))
    whole = base.trunk.hidden(tokens, positions, SequenceBounds.of([len(tokens)]), ())
    cache = [[] for _ in base.decoder.layers]

    def attend(layer, q, k, v):
        cache[layer].append((k, v))
        keys, values = (torch.cat(x) for x in zip(*cache[layer], strict=True))
        return _reference_attend(q, keys, values, base.decoder.attention[layer])

    steps = [base.decoder(tokens[i : i + 1], positions[i : i + 1], attend) for i in range(len(tokens))]
    torch.testing.assert_close(torch.cat(steps), whole, rtol=1e-5, atol=1e-5)

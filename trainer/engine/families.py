"""A transformers module becomes a `Decoder`: which families it knows, and where each keeps its weights and numbers.

The module's own attributes decide (fused weights, per-head norms, windows, softcaps, sandwich norms), so a family is
one name in `FAMILIES` unless it brings something new. Sibling matrices are fused into one tensor, and the module's
parameters become views of it: the base is held in memory once.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from .attention import AttentionSpec
from .decoder import Decoder, DecoderLayer, DenseMlp, Mlp, Norm
from .lora import Projection, Site, SiteKind, bias_of
from .moe import MoeMlp
from .rope import rope_tables

__all__ = ["FAMILIES", "build_decoder"]

FAMILIES = frozenset(
    {
        "gemma", "gemma2", "gemma3_text", "llama", "mistral", "mixtral", "phi3", "qwen2", "qwen2_moe", "qwen3",
        "qwen3_moe",
    }
)  # fmt: skip
_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_tanh",
    "gelu_new": "gelu_tanh",
}


def build_decoder(module: Any) -> Decoder | str:
    """The generic decoder over `module`'s weights, or the reason why it cannot be.

    Args:
        module: a transformers causal LM; its sibling weights become views of fused tensors.
    """
    config = module.config
    if config.model_type not in FAMILIES:
        return f"model type {config.model_type} is not among {', '.join(sorted(FAMILIES))}"
    activation = getattr(config, "hidden_activation", None) or config.hidden_act
    if activation not in _ACTIVATIONS:
        return f"activation {activation} is not among {', '.join(sorted(_ACTIVATIONS))}"
    if getattr(config, "use_bidirectional_attention", None):
        return "its attention is bidirectional"
    trunk = module.model
    read = _LayerReader(config, _ACTIVATIONS[activation])
    layers = tuple(read(f"model.layers.{i}", layer) for i, layer in enumerate(trunk.layers))
    scale = getattr(trunk.embed_tokens, "scalar_embed_scale", None)
    return Decoder(
        embedding=trunk.embed_tokens.weight.detach(),
        embedding_scale=None if scale is None else float(scale),
        layers=layers,
        norm=_norm(trunk.norm),
        rope=rope_tables(trunk.rotary_emb, config),
        attention=tuple(_attention(layer.self_attn, config) for layer in trunk.layers),
    )


def _norm(module: Any) -> Norm:
    eps = getattr(module, "variance_epsilon", None) or module.eps
    weight = module.weight.detach()
    if "Gemma" in type(module).__name__:  # stores w, multiplies by 1 + w in float32
        weight = 1.0 + weight.float()
    return Norm(weight, float(eps))


def _optional_norm(owner: Any, name: str) -> Norm | None:
    return _norm(getattr(owner, name)) if hasattr(owner, name) else None


def _attention(attn: Any, config: Any) -> AttentionSpec:
    # Mistral and Phi-3 give every layer the config's window; the others decide per layer.
    window = attn.sliding_window if hasattr(attn, "sliding_window") else None
    if config.model_type in ("mistral", "mixtral", "phi3"):
        window = getattr(config, "sliding_window", None)
    return AttentionSpec(float(attn.scaling), window, getattr(attn, "attn_logit_softcapping", None))


def _fused(key: str, kind: SiteKind, linears: dict[str, nn.Linear]) -> Projection:
    """One projection over siblings; their parameters become views of the fused tensor."""
    sites: list[Site] = []
    for name, linear in linears.items():
        start = sites[-1].stop if sites else 0
        sites.append(Site(name, start, start + linear.out_features))
    modules = list(linears.values())
    if len(modules) == 1:
        return Projection(key, kind, modules[0].weight.detach(), bias_of(modules[0]), tuple(sites))
    weight = torch.cat([m.weight.detach() for m in modules])
    biases = [b for m in modules if (b := bias_of(m)) is not None]
    bias = torch.cat(biases) if biases else None
    for site, linear in zip(sites, modules, strict=True):
        linear.weight.data = weight[site.start : site.stop]
        if bias is not None:
            linear.bias.data = bias[site.start : site.stop]
    return Projection(key, kind, weight, bias, tuple(sites))


def _bank(key: str, weight: Tensor) -> Projection:
    experts, rows, _ = weight.shape
    return Projection(key, "mlp", weight.detach(), None, (Site(key, 0, rows),), experts)


class _LayerReader:
    def __init__(self, config: Any, activation: str) -> None:
        self.config = config
        self.activation = activation

    def __call__(self, path: str, layer: Any) -> DecoderLayer:
        attn = layer.self_attn
        sandwich = hasattr(layer, "pre_feedforward_layernorm")
        return DecoderLayer(
            norm_attn=_norm(layer.input_layernorm),
            qkv=self._siblings(f"{path}.self_attn", attn, "attn", "qkv_proj", ("q_proj", "k_proj", "v_proj")),
            norm_q=_optional_norm(attn, "q_norm"),
            norm_k=_optional_norm(attn, "k_norm"),
            out=self._siblings(f"{path}.self_attn", attn, "attn", "o_proj", ()),
            norm_attn_out=_norm(layer.post_attention_layernorm) if sandwich else None,
            norm_mlp=_norm(layer.pre_feedforward_layernorm if sandwich else layer.post_attention_layernorm),
            mlp=self._mlp(f"{path}.mlp", layer.mlp),
            norm_mlp_out=_norm(layer.post_feedforward_layernorm) if sandwich else None,
            num_heads=self.config.num_attention_heads,
            num_kv_heads=self.config.num_key_value_heads,
            head_dim=attn.head_dim,
            rope=getattr(attn, "layer_type", None) or "default",
        )

    def _siblings(self, path: str, owner: Any, kind: SiteKind, fused: str, split: tuple[str, ...]) -> Projection:
        """The projection called `fused` in the module, or made of the modules called `split`."""
        names = (fused,) if hasattr(owner, fused) else split
        return _fused(f"{path}.{fused}", kind, {f"{path}.{name}": getattr(owner, name) for name in names})

    def _dense(self, path: str, mlp: Any) -> DenseMlp:
        gate_up = self._siblings(path, mlp, "mlp", "gate_up_proj", ("gate_proj", "up_proj"))
        return DenseMlp(gate_up, self._siblings(path, mlp, "mlp", "down_proj", ()), self.activation)

    def _mlp(self, path: str, mlp: Any) -> Mlp:
        if not hasattr(mlp, "experts"):
            return self._dense(path, mlp)
        shared = getattr(mlp, "shared_expert", None)
        return MoeMlp(
            router=mlp.gate.weight.detach(),
            top_k=mlp.gate.top_k,
            normalise=bool(getattr(mlp.gate, "norm_topk_prob", True)),
            round_scores=self.config.model_type != "mixtral",
            gate_up=_bank(f"{path}.experts.gate_up_proj", mlp.experts.gate_up_proj),
            down=_bank(f"{path}.experts.down_proj", mlp.experts.down_proj),
            activation=self.activation,
            shared=None if shared is None else self._dense(f"{path}.shared_expert", shared),
            shared_gate=None if shared is None else mlp.shared_expert_gate.weight.detach(),
        )

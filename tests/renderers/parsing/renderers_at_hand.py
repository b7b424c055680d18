"""The renderers that parsing and extension are tested with: fixture tokenizers always, real ones where they are."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from renderers import ChatTemplate, InputError, Renderer, Tokenizer, get_renderer, get_tokenizer

__all__ = ["ALL", "EVERY", "FIXTURE", "REAL", "name_of", "renderer_of", "turns"]

FIXTURES = Path(__file__).resolve().parents[3] / "fixtures"
_REAL = os.environ.get("DATUMLOOM_REAL_DATA")
TOKENIZERS = Path(_REAL) / "tokenizers" if _REAL else None

Key = tuple[str, str, tuple[tuple[str, Any], ...]]
"""Tokenizer folder, renderer, options; the folder is one of fixtures/ or of the real tokenizers."""


def _key(folder: str, renderer: str, **options: Any) -> Key:
    return folder, renderer, tuple(options.items())


FIXTURE: list[Key] = [
    _key("tiny-chat", "chat_template"),
    _key("tiny-chat", "chat_template", enable_thinking=False),
    _key("tiny-chat", "qwen3"),
    _key("tiny-chat", "qwen3", thinking=False),
    _key("tiny-chat", "qwen3_instruct"),
    _key("tiny-chat", "qwen2.5"),
    _key("tiny-chat", "qwen3_5"),
    _key("tiny-chat", "qwen3_5", thinking=False),
    _key("tiny-chat", "nemotron3"),
    _key("tiny-chat", "nemotron3", keep_thinking=True),
    _key("tiny-chat", "nemotron3", thinking=False, keep_thinking=True),
    _key("tiny-chat", "chatml"),
    _key("tiny-chat", "role_colon"),
    _key("tiny-headers", "chat_template"),
    _key("tiny-headers", "llama3"),
    _key("tiny-headers", "llama3", tools_in_user_message=False),
    _key("tiny-headers", "llama3.0"),
    _key("tiny-spm", "chat_template"),
    _key("tiny-spm", "role_colon"),
    _key("tiny-all", "deepseek_v3"),
    _key("tiny-all", "deepseek_v3", null_content=True),
    _key("tiny-all", "glm4_5"),
    _key("tiny-all", "glm4_5", thinking=False),
    _key("tiny-all", "gpt_oss", current_date="2025-06-01"),
    _key("tiny-all", "kimi_k2"),
    _key("tiny-all", "mistral_nemo"),
    _key("tiny-all", "phi3"),
    _key("tiny-chat", "zephyr"),
    _key("tiny-spm", "zephyr"),
]
REAL: list[Key] = [
    _key("deepseek-v3", "deepseek_v3"),
    _key("deepseek-v3", "deepseek_v3", null_content=True),
    _key("deepseek-v3", "chat_template"),
    _key("glm-4.5", "glm4_5"),
    _key("glm-4.5", "glm4_5", thinking=False),
    _key("glm-4.5", "glm4.6"),
    _key("glm-4.5", "glm4.6", thinking=False),
    _key("glm-4.5", "chat_template"),
    _key("gpt-oss", "gpt_oss"),
    _key("gpt-oss", "gpt_oss_no_sysprompt"),
    _key("gpt-oss", "chat_template"),
    _key("kimi-k2", "kimi_k2"),
    _key("kimi-k2", "chat_template"),
    _key("llama3.1", "llama3"),
    _key("llama3.1", "llama3", tools_in_user_message=False),
    _key("llama3.1", "chat_template"),
    _key("mistral-nemo", "mistral_nemo"),
    _key("mistral-nemo", "chat_template"),
    _key("nemotron3", "nemotron3"),
    _key("nemotron3", "nemotron3", thinking=False),
    _key("nemotron3", "nemotron3", keep_thinking=True),
    _key("nemotron3", "nemotron3", thinking=False, keep_thinking=True),
    _key("nemotron3", "chat_template"),
    _key("phi-3.5", "phi3"),
    _key("phi-3.5", "role_colon"),
    _key("phi-3.5", "chat_template"),
    _key("qwen2.5", "qwen2.5"),
    _key("qwen2.5", "chat_template"),
    _key("qwen3", "qwen3"),
    _key("qwen3", "qwen3", thinking=False),
    _key("qwen3", "qwen3_instruct"),
    _key("qwen3", "role_colon"),
    _key("qwen3", "chat_template"),
    _key("qwen3.5", "qwen3_5"),
    _key("qwen3.5", "qwen3_5", thinking=False),
    _key("qwen3.5", "chat_template"),
]
SPECIAL = [
    "<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<s>", "</s>", "[INST]", "[/INST]",
    "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_CALLS]", "[TOOL_RESULTS]", "[/TOOL_RESULTS]",
    "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>", "<|end|>",
    "<|start|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>",
    "<|im_system|>", "<|im_user|>", "<|im_assistant|>", "<|im_middle|>",
]  # fmt: skip
PLAIN_ADDED = [
    "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>",
    "<｜tool▁call▁begin｜>", "<｜tool▁call▁end｜>", "<｜tool▁sep｜>", "<｜tool▁outputs▁begin｜>",
    "<｜tool▁outputs▁end｜>", "<｜tool▁output▁begin｜>", "<｜tool▁output▁end｜>",
    "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>",
    "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<arg_key>", "</arg_key>", "<arg_value>",
    "</arg_value>",
]  # fmt: skip
FOREIGN_TOKENS = [*((text, True) for text in SPECIAL), *((text, False) for text in PLAIN_ADDED)]
ALL = [*FIXTURE, *(REAL if TOKENIZERS else [])]


@lru_cache(maxsize=16)
def _tokenizer(folder: str) -> Tokenizer:
    if folder == "tiny-all":
        return _with_tokens_of_all_families()
    if folder.startswith("tiny-"):
        return get_tokenizer(FIXTURES / folder)
    assert TOKENIZERS is not None
    return get_tokenizer(TOKENIZERS / folder)


def _with_tokens_of_all_families() -> Tokenizer:
    """The tiny chat tokenizer with the control tokens of every family, so that all of them can be tried anywhere."""
    spec = json.loads((FIXTURES / "tiny-chat" / "tokenizer.json").read_text(encoding="utf-8"))
    known = {token["content"] for token in spec["added_tokens"]}
    number = max(token["id"] for token in spec["added_tokens"])
    for text, special in FOREIGN_TOKENS:
        if text not in known:
            number += 1
            flags = {"lstrip": False, "rstrip": False, "normalized": False, "single_word": False}
            spec["added_tokens"].append({"id": number, "content": text, "special": special, **flags})
    return Tokenizer(json.dumps(spec), config={"eos_token": "<|endoftext|>"}, name="tiny-all")


@lru_cache(maxsize=128)
def renderer_of(key: Key) -> Renderer:
    folder, name, options = key
    if name == "chat_template":
        return ChatTemplate(_tokenizer(folder), **dict(options))
    return get_renderer(name, _tokenizer(folder), **dict(options))


def name_of(key: Key) -> str:
    """A test id."""
    folder, name, options = key
    return "-".join([folder, name, *(f"{option}={value}" for option, value in options)])


def turns(renderer: Renderer, messages: list[dict[str, Any]], tools: Any) -> Iterator[tuple[int, list[int], list[int]]]:
    """Every assistant turn that can be trained: its index, prompt and completion, as sampled canonically."""
    for i, message in enumerate(messages):
        if message["role"] != "assistant" or i == 0:
            continue
        try:
            examples = renderer.render(messages[: i + 1], "last_assistant_message", tools, turns="split")
        except InputError:
            continue
        if examples and examples[-1].weights.any():
            tokens = examples[-1].tokens.tolist()
            start = int(examples[-1].weights.nonzero()[0][0])
            yield i, tokens[:start], tokens[start:]


EVERY: list[Any] = [
    *(pytest.param(key, id=name_of(key)) for key in FIXTURE),
    *(
        [pytest.param(key, id=name_of(key), marks=pytest.mark.slow) for key in REAL]
        if TOKENIZERS
        else [
            pytest.param(
                None,
                id="real",
                marks=pytest.mark.skip(reason="DATUMLOOM_REAL_DATA is unset: it names a folder with real tokenizers"),
            )
        ]
    ),
]
"""Every renderer at hand as parameters of a test."""

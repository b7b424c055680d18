"""Choosing a renderer: by name, by the template's hash, never by a model's name."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from renderers import ChatTemplate, OptionError, get_renderer, get_tokenizer, renderer_names


def test_unknown_template_is_run_itself_and_says_so(repository: Path) -> None:
    renderer = get_renderer(repository / "fixtures" / "tiny-chat")
    assert isinstance(renderer, ChatTemplate)
    assert "the template itself is run" in renderer.choice


def test_a_folder_named_like_a_family_is_not_taken_for_one(repository: Path, tmp_path: Path) -> None:
    folder = tmp_path / "Qwen3-8B"
    shutil.copytree(repository / "fixtures" / "tiny-chat", folder)
    assert get_renderer(folder).name == "chat_template"


def test_known_templates_choose_their_family(real_data: Path) -> None:
    for folder, expected in {"qwen3": "qwen3", "llama3.1": "llama3"}.items():
        renderer = get_renderer(real_data / "tokenizers" / folder)
        assert renderer.name == expected
        assert "reproduces" in renderer.choice
        assert renderer.template_hash is not None


def test_names_and_aliases(repository: Path) -> None:
    tokenizer = get_tokenizer(repository / "fixtures" / "tiny-chat")
    assert {"chat_template", "llama3", "qwen3", "qwen3_disable_thinking", "qwen3_instruct"} <= set(renderer_names())
    assert get_renderer("qwen3_disable_thinking", tokenizer).options["thinking"] is False
    assert get_renderer("qwen3", tokenizer, thinking=False).options["thinking"] is False
    with pytest.raises(OptionError, match="thinkin: renderer qwen3 has no such option"):
        get_renderer("qwen3", tokenizer, thinkin=False)
    with pytest.raises(OptionError, match="thinking: expected bool; got 'no'"):
        get_renderer("qwen3", tokenizer, thinking="no")
    with pytest.raises(OptionError, match="expected a tokenizer with the control token"):
        get_renderer("llama3", tokenizer)
    with pytest.raises(OptionError, match="expected a model folder, a hub id or one of"):
        get_renderer("qwen9", tokenizer)
    with pytest.raises(OptionError, match="tokenizer: expected one"):
        get_renderer("qwen3")

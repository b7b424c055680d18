"""Every family and the template path give the template's own tokens: a small seed; `make parity` runs a large one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.renderers.parity import chat_template_renderer, compare, family_renderers, template_files
from tests.renderers.parity_cases import CASES

pytest.importorskip("transformers", reason="apply_chat_template of transformers is the reference")

FIXTURES = Path(__file__).resolve().parents[2] / "fixtures"
FOLDERS = (
    "deepseek-v3", "glm-4.5", "gpt-oss", "kimi-k2", "llama3.1", "mistral-nemo", "nemotron3", "phi-3.5", "qwen2.5",
    "qwen3", "qwen3.5",
)  # fmt: skip
PER_CASE = int(os.environ.get("DATUMLOOM_PARITY_ROWS", "2"))


def check(pairs: list, count: int) -> None:
    for renderer, oracle in pairs:
        for case in CASES:
            score = compare(renderer, oracle, case, count, seed=1)
            assert not score.mismatches, f"{renderer.name} {renderer.options} {case}: {score.mismatches[0]}"
            assert score.counts["prompts"] >= count


@pytest.mark.parametrize("name", ["tiny-chat", "tiny-headers", "tiny-spm"])
def test_template_path_with_fixture_tokenizers(name: str) -> None:
    folder = FIXTURES / name
    check([chat_template_renderer(folder, template) for template in template_files(folder)], 3)


@pytest.mark.slow
@pytest.mark.parametrize("name", FOLDERS)
def test_real_templates(name: str, real_data: Path) -> None:
    folder = real_data / "tokenizers" / name
    for template in template_files(folder):
        check([chat_template_renderer(folder, template), *family_renderers(folder, template)], PER_CASE)

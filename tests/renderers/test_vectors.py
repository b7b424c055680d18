"""Each family writes what its model's template wrote when the vectors were made: text and ids."""

from __future__ import annotations

import json
from typing import Any

import pytest

from renderers import Family, Renderer, get_renderer
from tests.renderers.vectors import FOLDER, tiny_tokenizer

FILES = sorted(path.stem for path in FOLDER.glob("*.json") if path.read_bytes().startswith(b'{"renderer":'))


def load(name: str) -> tuple[dict[str, Any], Any]:
    data = json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))
    return data, tiny_tokenizer(data["tokens"], data["special_tokens"])


def renderer_of(data: dict[str, Any], tokenizer: Any, vector: dict[str, Any]) -> Renderer:
    return get_renderer(data["renderer"], tokenizer, **vector["options"])


@pytest.mark.parametrize("name", FILES)
def test_vectors(name: str) -> None:
    data, tokenizer = load(name)
    assert data["vectors"]
    for vector in data["vectors"]:
        renderer = renderer_of(data, tokenizer, vector)
        messages, tools = vector["messages"], vector["tools"]
        prompt = renderer.build_generation_prompt(
            messages[: vector["prompt_messages"]], tools=tools, control_tokens="parse"
        ).to_ints()
        (whole,) = renderer.render(messages, "all_tokens", tools, turns="single", control_tokens="parse")
        for kind, ids in (("prompt", prompt), ("whole", whole.tokens.tolist())):
            where = f"{name} {vector['case']} {vector['options']} {kind}"
            assert tokenizer.decode(ids) == tokenizer.decode(vector[f"{kind}_ids"]), where
            assert ids == vector[f"{kind}_ids"], where


@pytest.mark.parametrize("name", FILES)
def test_vectors_know_their_template(name: str) -> None:
    data, tokenizer = load(name)
    renderer = get_renderer(data["renderer"], tokenizer)
    assert isinstance(renderer, Family)
    assert data["template_hash"] in renderer.templates

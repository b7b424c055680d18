"""A small tokenizer with any family's control tokens, and the template path as the reference for a family."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from renderers import ChatTemplate, Family, RefusedError, Renderer, Tokenizer
from tests.renderers.parity_cases import conversations

__all__ = ["differences", "shown", "tiny_tokenizer"]

_FOLDER = Path(__file__).resolve().parents[3] / "fixtures" / "tiny-chat"
_FIRST_ID = 8183


@cache
def tiny_tokenizer(
    controls: tuple[str, ...], bos: str | None = None, eos: str | None = None, *, rstrip: bool = False
) -> Tokenizer:
    """The fixture tokenizer with these control tokens instead of its own."""
    spec = json.loads((_FOLDER / "tokenizer.json").read_text(encoding="utf-8"))
    flags = {"single_word": False, "lstrip": False, "rstrip": rstrip, "normalized": False, "special": True}
    spec["added_tokens"] = [{"id": _FIRST_ID + i, "content": text, **flags} for i, text in enumerate(controls)]
    spec["post_processor"] = None
    return Tokenizer(json.dumps(spec), config={"bos_token": bos, "eos_token": eos}, name="tiny")


def shown(renderer: Renderer, tokens: Sequence[int]) -> str:
    return renderer.tokenizer.decode(list(tokens))


def differences(family: Family, template: str, cases: Sequence[str], count: int) -> list[str]:
    """Where the family's prompts and whole conversations are not the template's."""
    reference = ChatTemplate(family.tokenizer, template)
    found: list[str] = []
    for case in cases:
        for messages, tools in conversations(case, count, seed=3):
            for render in (_prompt, _whole):
                expected, got = render(reference, messages, tools), render(family, messages, tools)
                if expected != got:
                    found.append(f"{case} {render.__name__} {messages!r}\n  {expected!r}\n  {got!r}")
    return found


def _prompt(renderer: Renderer, messages: Any, tools: Any) -> list[int] | None:
    try:
        return renderer.build_generation_prompt(messages, tools=tools, control_tokens="parse").to_ints()
    except RefusedError:
        return None


def _whole(renderer: Renderer, messages: Any, tools: Any) -> list[int] | None:
    try:
        return renderer.render(messages, "all_tokens", tools, turns="single", control_tokens="parse")[0].tokens.tolist()
    except RefusedError:
        return None

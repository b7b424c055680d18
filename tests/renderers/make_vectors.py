"""Write `vectors/*.json` from the models' own templates, run by transformers.

    DATUMLOOM_REAL_DATA=FOLDER python -m tests.renderers.make_vectors

FOLDER/tokenizers holds one folder per model. The conversations are ours, from `parity_cases`.
"""

from __future__ import annotations

import json
import os
import sys
from itertools import islice
from pathlib import Path
from typing import Any

from renderers import Family, Renderer
from tests.renderers.parity import Oracle, family_renderers, seen_by_template, template_files
from tests.renderers.parity_cases import conversations
from tests.renderers.vectors import FOLDER, tiny_tokenizer

FIRST = ("plain", "edge_whitespace", "world_text", "inline_think", "reasoning", "parallel_calls", "content_parts",
         "odd_system", "same_role")  # fmt: skip
OTHERS = ("reasoning", "tools")
LONGEST = 1500


def main() -> None:
    named = os.environ.get("DATUMLOOM_REAL_DATA")
    if not named:
        sys.exit("DATUMLOOM_REAL_DATA is unset: it names a folder with tokenizers/")
    FOLDER.mkdir(exist_ok=True)
    for folder in sorted((Path(named) / "tokenizers").iterdir()):
        for template in template_files(folder) if folder.is_dir() else ():
            pairs = list(islice(family_renderers(folder, template), 6))
            if pairs:
                suffix = template.stem.removeprefix("chat_template")
                _write(FOLDER / f"{folder.name}{suffix}.json", pairs)


def _write(path: Path, pairs: list[tuple[Renderer, Oracle]]) -> None:
    vectors = [
        vector
        for number, (renderer, oracle) in enumerate(pairs)
        for case in (OTHERS if number else FIRST)
        for vector in [_vector(renderer, oracle, case)]
        if vector
    ]
    first = pairs[0][0]
    assert isinstance(first, Family)
    tokens = _tokens_in(first, vectors)
    special = {k: v for k, v in first.tokenizer.special_tokens.items() if v in {t["content"] for t in tokens}}
    tiny = tiny_tokenizer(tokens, special)
    for vector in vectors:
        for kind in ("prompt", "whole"):
            text = vector[kind]
            vector[f"{kind}_ids"] = None if text is None else tiny.encode(text)
    kept = {"renderer": first.name, "tokens": tokens, "special_tokens": special, "template_hash": first.template_hash}
    lines = ",\n".join(json.dumps(vector, ensure_ascii=False, separators=(",", ":")) for vector in vectors)
    head = json.dumps(kept, ensure_ascii=False, separators=(",", ":"))
    path.write_text(f'{head[:-1]},"vectors":[\n{lines}\n]}}\n', encoding="utf-8")
    print(f"{path.name}: {len(vectors)} vectors, {path.stat().st_size} bytes")


def _vector(renderer: Renderer, oracle: Oracle, case: str) -> dict[str, Any] | None:
    """The first conversation of the case that the template takes and that is not long."""
    for messages, tools in conversations(case, 50, seed=42):
        seen = seen_by_template(renderer, messages)
        end = next((i for i in range(len(seen) - 1, 0, -1) if seen[i]["role"] == "assistant"), len(seen))
        prompt = oracle.text(seen[:end], tools, generation=True)
        whole = oracle.text(seen, tools, generation=False)
        if prompt is not None and whole is not None and len(whole) < LONGEST * (2 if tools else 1):
            return {
                "case": case,
                "options": renderer.options,
                "messages": messages,
                "tools": tools,
                "prompt_messages": end,
                "prompt": prompt,
                "whole": whole,
            }
    return None


def _tokens_in(family: Family, vectors: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The model's control tokens that the family needs or the texts contain, with how they treat white space."""
    texts = "".join(vector[kind] for vector in vectors for kind in ("prompt", "whole"))
    stops = {family.tokenizer.id_to_token(stop) for stop in family.get_stop_sequences() if isinstance(stop, int)}
    needed = {*family.control_tokens(), *stops}
    return [
        {"content": token.text, "special": token.special, "lstrip": token.lstrip, "rstrip": token.rstrip}
        for token in family.tokenizer.control.values()
        if token.text in needed or token.text in texts
    ]


if __name__ == "__main__":
    main()

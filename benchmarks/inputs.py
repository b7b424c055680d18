"""Inputs of a run: the model folder as every library can load it, and generated conversations."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

from conversations import write_conversations

ROOT = Path(__file__).resolve().parents[1]
FIXTURE = ROOT / "fixtures" / "tiny-chat"
SEED = 20250101
LARGE_PARTS = 8


def tokenizers_home() -> Path | None:
    """The folder of real tokenizers, when DATUMLOOM_REAL_DATA says where real data is."""
    real = os.environ.get("DATUMLOOM_REAL_DATA")
    return Path(real) / "tokenizers" if real else None


def model_folder(into: Path, name: str = "qwen3") -> Path:
    """A copy of the real tokenizer `name`, or of the fixture's, with what AutoTokenizer wants beside it.

    Raises:
        FileNotFoundError: when the folder has no tokenizer.json or no chat template.
    """
    home = tokenizers_home()
    source = home / name if home else FIXTURE
    folder = into / source.name
    folder.mkdir(parents=True, exist_ok=True)
    for file in source.iterdir():
        if file.suffix in (".json", ".jinja", ".model"):
            shutil.copyfile(file, folder / file.name)
    for needed in ("tokenizer.json", "chat_template.jinja"):
        if not (folder / needed).exists():
            raise FileNotFoundError(f"expected {needed} in {source}; it is not there")
    # AutoTokenizer asks for the model's kind before it looks at the tokenizer.
    _write_if_absent(folder / "config.json", {"model_type": "qwen3"})
    _write_if_absent(folder / "tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"})
    return folder


def main_input(into: Path, num_conversations: int) -> Path:
    path = into / "conversations.jsonl"
    write_conversations(path, num_conversations, SEED)
    return path


def large_input(into: Path, num_conversations: int) -> Path:
    """`LARGE_PARTS` times as many conversations, each part from its own seed."""
    return sized_input(into / "large.jsonl", num_conversations, parts=LARGE_PARTS)


def sized_input(path: Path, num_conversations: int, *, parts: int = 0, num_bytes: int = 0) -> Path:
    """Parts of `num_conversations`, seeds counting up, until there are `parts` of them or `num_bytes` in the file."""
    part, number = path.with_suffix(".part"), 0
    with path.open("wb") as file:
        while number < parts or file.tell() < num_bytes:
            number += 1
            write_conversations(part, num_conversations, SEED + number)
            file.write(part.read_bytes())
    part.unlink()
    return path


def _write_if_absent(path: Path, content: dict[str, str]) -> None:
    if not path.exists():
        path.write_text(json.dumps(content))

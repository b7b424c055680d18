"""A checkpoint leaves the house: merged into a model folder, or packed as `tar.gz`."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from renderers import MissingExtraError, OptionError
from trainer.protocol import ParsedCheckpointTinkerPath

from .archive import pack_file
from .checkpoints import CheckpointStore

__all__ = ["export_archive", "export_merged"]

# Beside the weights: whatever a tokenizer is made of.
_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def export_archive(store: CheckpointStore, path: str, out: str | Path) -> Path:
    """Pack a checkpoint's adapter, moments and metadata as `tar.gz`.

    Raises:
        OptionError: `out` exists.
        NotFoundError: there is no such checkpoint.
    """
    target = _free(Path(out))
    with store.open(ParsedCheckpointTinkerPath.from_tinker_path(path)) as folder:
        pack_file(folder, target)
    return target


def export_merged(
    store: CheckpointStore,
    path: str,
    out: str | Path,
    *,
    base: str | Path | None = None,
    dtype: str = "auto",
) -> Path:
    """Merge a checkpoint into its base and write a plain model folder.

    Where the head is tied to the embedding and was trained, the two part: only the head changes.

    Args:
        base: folder or hub id of the base; None takes what the checkpoint was trained on.
        dtype: of the result, `float32` or `bfloat16`; `auto` keeps the base's.

    Raises:
        MissingExtraError: transformers or peft is not installed.
        OptionError: `out` exists, or the dtype is unknown.
        NotFoundError: there is no such checkpoint.
    """
    if dtype not in ("auto", "float32", "bfloat16"):
        raise OptionError(f"dtype: expected auto, float32 or bfloat16; got {dtype!r}")
    target = _free(Path(out))
    parsed = ParsedCheckpointTinkerPath.from_tinker_path(path)
    with store.open(parsed) as folder:
        place = str(base) if base is not None else _trained_on(folder)
        module = _merged(folder, place, dtype, untie=store.find(parsed).info.lora.train_unembed)
    temporary = target.with_name(f".tmp-{target.name}")
    shutil.rmtree(temporary, ignore_errors=True)
    module.save_pretrained(temporary)
    for name in _TOKENIZER_FILES:
        if (Path(place) / name).is_file():
            shutil.copyfile(Path(place) / name, temporary / name)
    temporary.rename(target)
    return target


def _free(target: Path) -> Path:
    if target.exists():
        raise OptionError(f"out: expected a path that is free; {target} exists")
    target.parent.mkdir(parents=True, exist_ok=True)
    return target


def _trained_on(folder: Path) -> str:
    import orjson

    from .adapter_files import ADAPTER_CONFIG

    return orjson.loads((folder / ADAPTER_CONFIG).read_bytes())["base_model_name_or_path"]


def _merged(folder: Path, place: str, dtype: str, *, untie: bool) -> Any:
    try:
        from peft import PeftModel
        from transformers import AutoModelForCausalLM
    except ImportError as error:
        raise MissingExtraError(error.name or "peft", "train") from None
    module: Any = AutoModelForCausalLM.from_pretrained(place, dtype=dtype)
    if untie:
        _untie(module)
    wrapped: Any = PeftModel.from_pretrained(module, str(folder))
    return wrapped.merge_and_unload(safe_merge=True)


def _untie(module: Any) -> None:
    from torch import nn

    head, embedding = module.get_output_embeddings(), module.get_input_embeddings()
    if head.weight is embedding.weight:
        head.weight = nn.Parameter(head.weight.detach().clone(), requires_grad=False)
        module.config.tie_word_embeddings = False

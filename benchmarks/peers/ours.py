"""datumloom itself: `render-jsonl`'s Python entry, from the file to shards on disk with their manifest.

Modes: `single`, `auto`, `split` are `--turns`; `-tokenizers` leaves fastokens out; `-template` takes the ChatTemplate
renderer instead of the family's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, run


def load(options: Options) -> Any:
    import datasets_io
    from datasets_io.block_render import renderer_of

    turns, _, variant = (options.mode or "single").partition("-")
    spec = datasets_io.RenderSpec(
        model=str(options.folder),
        renderer="chat_template" if variant == "template" else "auto",
        turns=turns,
        backend="tokenizers" if variant == "tokenizers" else "auto",
    )
    _ = datasets_io.build_shards, datasets_io.ShardReader  # names are imported when first used
    # The build takes its renderer from the same place, where it is loaded once per process. Its tokenizer compares
    # the fast encoder with the reference when first used: part of loading, as for the peers.
    renderer_of(spec).build_generation_prompt([{"role": "user", "content": "a"}])
    return spec, options.workers, datasets_io


def _build(state: Any, path: Path, out: Path) -> Any:
    """Shards of `path` in the folder `out`; -> the manifest."""
    spec, workers, datasets_io = state
    # One worker is this process itself; more are processes beside it, which load for themselves.
    return datasets_io.build_shards([path], out, spec, workers=workers if workers > 1 else 0)


def convert(state: Any, path: Path) -> Counts:
    with tempfile.TemporaryDirectory() as folder:
        totals = _build(state, path, Path(folder) / "shards").totals
    # Shards hold model inputs, one position less than the sequence.
    return Counts(totals.read, totals.rows, totals.tokens + totals.rows, totals.trained_tokens)


def examples(state: Any, path: Path, _counts: Counts) -> Iterator[tuple[Any, Any]]:
    import numpy as np

    with tempfile.TemporaryDirectory() as folder:
        _build(state, path, Path(folder) / "shards")
        with state[-1].ShardReader(Path(folder) / "shards") as reader:
            for datum in reader:
                targets, weights = (datum.loss_fn_inputs[name].to_numpy() for name in ("target_tokens", "weights"))
                tokens = datum.model_input.to_numpy()
                yield np.append(tokens[:1], targets), np.append(np.float32(0), weights)


def prompt(state: Any, messages: list[dict[str, Any]]) -> list[int]:
    from datasets_io.block_render import renderer_of

    return renderer_of(state[0]).build_generation_prompt(messages).to_ints()


if __name__ == "__main__":
    packages = ["fastokens", "tokenizers", "orjson", "pyarrow", "numpy"]
    run(Adapter(packages, load, examples, convert, prompt))

"""The floor: parse every line, encode every conversation, write the three columns; nothing else.

What no pipeline with these parts can beat. The rendered text of a conversation is encoded whole, its control tokens
read from the text: right for this input, which contains none of its own. Mode `encode` stops after the encoding of the
messages' contents and writes nothing.
"""

from __future__ import annotations

import tempfile
from itertools import islice
from pathlib import Path
from typing import Any

from harness import Adapter, Counts, Options, rows, run

_BLOCK = 256


def load(options: Options) -> Any:
    import fastokens
    import numpy as np
    import pyarrow as pa

    return fastokens.Tokenizer.from_file(str(options.folder / "tokenizer.json")), options.mode, np, pa


def convert(state: Any, path: Path) -> Counts:
    tokenizer, mode, np, pa = state
    counts = Counts()
    if mode == "encode":
        for block in _blocks(path):
            ids, _ = tokenizer.encode_batch_flat([m["content"] for row in block for m in row["messages"]])
            counts.conversations += len(block)
            counts.tokens += len(ids) // 4
        return counts
    names = ["tokens", "target_tokens", "weights"]
    kinds = [pa.list_(pa.int32()), pa.list_(pa.int32()), pa.list_(pa.float32())]
    schema = pa.schema(list(zip(names, kinds, strict=True)))
    with tempfile.TemporaryFile() as file, pa.ipc.new_file(file, schema) as writer:
        for block in _blocks(path):
            raw_ids, raw_offsets = tokenizer.encode_batch_flat([_text(row["messages"]) for row in block])
            ids, offsets = np.frombuffer(raw_ids, np.int32), np.frombuffer(raw_offsets, np.uint64).astype(np.int32)
            # As many bytes as the real columns have; what they hold does not change the cost of writing them.
            columns = [ids, np.concatenate([ids[1:], ids[:1]]), np.ones(len(ids), np.float32)]
            # From buffers: `pa.array` of a numpy array imports pandas wherever it is installed, most of a second.
            lists = [
                pa.Array.from_buffers(
                    kind, len(block), [None, pa.py_buffer(offsets)], children=[_values(pa, kind, column)]
                )
                for kind, column in zip(kinds, columns, strict=True)
            ]
            writer.write_batch(pa.RecordBatch.from_arrays(lists, schema=schema))
            counts.conversations += len(block)
            counts.examples += len(block)
            counts.tokens += len(ids)
    return counts


def _values(pa: Any, kind: Any, column: Any) -> Any:
    return pa.Array.from_buffers(kind.value_type, len(column), [None, pa.py_buffer(column)])


def _text(messages: list[dict[str, Any]]) -> str:
    parts = [f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages[:-1]]
    return "".join(parts) + f"<|im_start|>assistant\n<think>\n\n</think>\n\n{messages[-1]['content']}<|im_end|>"


def _blocks(path: Path) -> Any:
    source = rows(path)
    while block := list(islice(source, _BLOCK)):
        yield block


if __name__ == "__main__":
    run(Adapter(["fastokens", "orjson", "pyarrow", "numpy"], load, convert=convert))

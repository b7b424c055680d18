"""Rows that the renderer refuses, held-out rows, duplicates, and a fast encoder that is wrong."""

from __future__ import annotations

import json
import random
import shutil
from pathlib import Path

import numpy as np
import pytest

from datasets_io import Manifest, RenderSpec, ShardReader, build_shards, is_held_out, run_build
from renderers import UserError, encoders
from tests.datasets_io.build_samples import MODEL, chat, files_of, lines_of, mixed_input, spec_of, words, write_rows

# A template that refuses a word, and one that writes another header than it prompts for.
TEMPLATE = """
{%- for message in messages -%}
  {%- if 'FORBIDDEN' in message.content -%}{{- raise_exception('that word is not allowed') -}}{%- endif -%}
  {{- '<|im_start|>' ~ ('bot' if 'ODD' in message.content else message.role) ~ '\\n' ~ message.content -}}
  {{- '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}
"""


@pytest.fixture(scope="module")
def refusing_model(tmp_path_factory) -> str:
    folder = shutil.copytree(MODEL, tmp_path_factory.mktemp("models") / "refusing")
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    return str(folder)


def stored_lines(out: Path, split: str = "train") -> list[int]:
    with ShardReader(out, split) as reader:
        return [reader.row(i).provenance.line for i in range(len(reader))]


def test_a_row_is_rejected_when_nothing_of_it_is_left(tmp_path, refusing_model) -> None:
    rows = [
        chat("Hi", "Hello"),
        chat("FORBIDDEN", "Hello"),  # the whole conversation
        chat("Hi", "ODD"),  # its only turn
        chat("Hi", "ODD", "And?", "Fine"),  # one of two turns
        {"prompt": "Hi", "chosen": "Yes", "rejected": "ODD"},  # half of a pair
        {"prompt": "Hi", "chosen": "Yes", "rejected": "No"},
        "{",
    ]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    manifest = build_shards([path], tmp_path / "out", spec_of(model=refusing_model), max_rejects=4)
    assert (manifest.totals.read, manifest.totals.accepted, manifest.totals.rejected) == (7, 3, 4)
    assert manifest.formats == {"openai": 2, "preference": 1}
    assert stored_lines(tmp_path / "out") == [1, 4, 6, 6]
    rejects = lines_of(tmp_path / "out" / "rejects.jsonl")
    assert [entry["line"] for entry in rejects] == [2, 3, 5, 7]
    assert [json.loads(entry["row"]) for entry in rejects[:3]] == [rows[1], rows[2], rows[4]]
    data = Path(path).read_bytes()
    assert all(data[entry["offset"] :].startswith(entry["row"].encode()) for entry in rejects)
    assert "that word is not allowed" in rejects[0]["detail"]
    assert rejects[1]["field"] == "messages[1]"
    drops = lines_of(tmp_path / "out" / "drops.jsonl")
    assert [(drop["line"], drop["message"], drop["reason"]) for drop in drops] == [(4, 1, rejects[1]["reason"])]
    assert manifest.rejects == {"invalid_json": 1, rejects[0]["reason"]: 1, rejects[1]["reason"]: 2}
    assert manifest.drops == {drops[0]["reason"]: 1}


def test_a_policy_drops_and_does_not_reject(tmp_path) -> None:
    rows = [chat("Hi", "<think>a</think>One", "And?", "<think>b</think>Two"), chat("Hi", "Hello")]
    path = write_rows(tmp_path / "rows.jsonl", rows)
    manifest = build_shards([path], tmp_path / "out", spec_of(turns="drop"))
    assert (manifest.totals.accepted, manifest.totals.rejected, manifest.totals.rows) == (2, 0, 1)
    (drop,) = lines_of(tmp_path / "out" / "drops.jsonl")
    assert (drop["line"], manifest.drops) == (1, {drop["reason"]: 1})


def test_examples_without_a_trained_token_are_never_written(tmp_path) -> None:
    rows = [chat("Hi", "Hello"), chat("Hi", "Hello", "Bye")]
    rows.append({"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "No", "weight": 0}]})
    path = write_rows(tmp_path / "rows.jsonl", rows)
    manifest = build_shards([path], tmp_path / "out", spec_of(train_on_what="last_assistant_message"))
    assert stored_lines(tmp_path / "out") == [1]
    assert (manifest.totals.accepted, sum(manifest.drops.values())) == (3, 2)
    assert {drop["line"] for drop in lines_of(tmp_path / "out" / "drops.jsonl")} == {2, 3}


def test_weights_without_a_mean_are_dropped(tmp_path) -> None:
    def weighted(*weights: float) -> dict:
        row = chat("Hi", "same", "Hi", "same")
        for message, weight in zip(row["messages"][1::2], weights, strict=True):
            message["weight"] = weight
        return row

    path = write_rows(tmp_path / "rows.jsonl", [weighted(1, 1), weighted(1, -1), weighted(-1, -1), weighted(0.5, 2)])
    manifest = build_shards([path], tmp_path / "out", spec_of(weights="mean"))
    assert manifest.drops == {"no_mean": 2}
    assert stored_lines(tmp_path / "out") == [1, 4]
    with ShardReader(tmp_path / "out") as reader:
        for datum in reader:
            assert np.isclose(datum.loss_fn_inputs["weights"].to_numpy().sum(), 1)


# -- held out


def test_the_held_out_rows_do_not_depend_on_the_others(tmp_path) -> None:
    rows = [chat(f"Say {i}", f"{i}") for i in range(400)]
    pairs = [{"prompt": f"Say {i}", "chosen": f"{i}", "rejected": "No"} for i in range(100)]
    shuffled = [*rows, *pairs]
    random.Random(5).shuffle(shuffled)

    def held_out(name: str, some: list, fraction: float, **options) -> set[str]:
        path = write_rows(tmp_path / f"{name}.jsonl", some)
        build_shards([path], tmp_path / name, spec_of(eval_fraction=fraction, **options))
        splits = [set(stored_lines(tmp_path / name, split)) for split in ("train", "eval")]
        assert not splits[0] & splits[1]
        assert splits[0] | splits[1] == set(range(1, len(some) + 1))
        return {json.dumps(some[line - 1]) for line in splits[1]}

    whole = held_out("whole", shuffled, 0.2)
    assert held_out("ordered", [*rows, *pairs], 0.2, block_bytes=100_000) == whole
    half = shuffled[::2]
    assert held_out("half", half, 0.2) == whole & {json.dumps(row) for row in half}
    more = held_out("more", shuffled, 0.4)
    assert whole < more
    assert 60 < len(whole) < 140
    assert 150 < len(more) < 250


def test_the_held_out_share_is_the_fraction() -> None:
    hashes = [i.to_bytes(16, "big") for i in range(20_000)]
    for fraction in (0.0, 0.01, 0.5, 0.99):
        share = sum(is_held_out(row_hash, fraction) for row_hash in hashes) / len(hashes)
        assert abs(share - fraction) < 0.01
    assert not any(is_held_out(row_hash, 0.0) for row_hash in hashes)


# -- duplicates


def test_dedup_keeps_the_first_of_equal_conversations(tmp_path) -> None:
    first = [
        chat("a", "b"),
        {"messages": chat("a", "b")["messages"], "id": "other", "source": "x"},  # the same, with more beside it
        chat("a", "c"),
        '{"messages":[{"content":"a","role":"user"},{"content":"b","role":"assistant"}]}',  # other order of keys
        {"instruction": "a", "output": "c"},  # another format
        {"messages": chat("a", "b")["messages"], "tools": [{"type": "function", "function": {"name": "f"}}]},
        "{",
    ]
    second = [{"prompt": "a", "chosen": "b", "rejected": "c"}, {"prompt": "a", "chosen": "b", "rejected": "c"}]
    big = '{"messages":[{"role":"user","content":"a"},{"role":"assistant","tool_calls":[{"function":{"name":"f",'
    big += '"arguments":{"n":123456789012345678901234567890}}}]}]}'
    inputs = [
        write_rows(tmp_path / "first.jsonl", [*first, *[chat(words(20, i), "x") for i in range(40)]]),
        write_rows(tmp_path / "second.jsonl", [*second, *first[:1], big, big]),
    ]
    manifest = build_shards(inputs, tmp_path / "out", spec_of(block_bytes=1500), dedup=True, max_rejects="100%")
    found = {(drop["source"], drop["line"]): drop["detail"] for drop in lines_of(tmp_path / "out" / "drops.jsonl")}
    same = "the same conversation as "
    expected = {
        (inputs[0], 2): f"{same}{inputs[0]}:1",
        (inputs[0], 4): f"{same}{inputs[0]}:1",
        (inputs[0], 5): f"{same}{inputs[0]}:3",
        (inputs[1], 2): f"{same}{inputs[1]}:1",
        (inputs[1], 3): f"{same}{inputs[0]}:1",
    }
    assert expected.items() <= found.items()
    assert manifest.drops["duplicate"] == len(found)
    assert manifest.totals.read == manifest.totals.accepted + manifest.totals.rejected == 40 + 7 + 5


# -- the fast encoder


def test_when_the_fast_encoder_is_wrong_everything_is_done_again(tmp_path, monkeypatch) -> None:
    pytest.importorskip("fastokens", reason="the fast encoder is not installed")
    inputs = mixed_input(tmp_path)
    model = shutil.copytree(MODEL, tmp_path / "model")  # a tokenizer that no other test has loaded
    build_shards(inputs, tmp_path / "slow", spec_of(model=str(model), backend="tokenizers"), max_rejects="100%")
    encode = encoders.FastokensEncoder.encode_batch
    calls: list[int] = []

    def wrong_later(self, texts):
        ids, offsets = encode(self, texts)
        calls.append(len(texts))
        # The check of the first texts has passed by then; the sampled check finds it.
        return (ids + 1, offsets) if len(calls) > 60 else (ids, offsets)

    monkeypatch.setattr(encoders.FastokensEncoder, "encode_batch", wrong_later)
    spec = RenderSpec(model=str(model), block_bytes=3_000)
    manifest = build_shards(inputs, tmp_path / "out", spec, max_rejects="100%")
    assert manifest.notes.encoder == "tokenizers"
    assert "disagree" in (manifest.notes.encoder_fallback or "")
    slow = build_shards(
        inputs, tmp_path / "slow", RenderSpec(model=str(model), block_bytes=3_000, backend="tokenizers"),
        max_rejects="100%", overwrite=True,
    )  # fmt: skip
    assert [shard.sha256 for shard in manifest.shards] == [shard.sha256 for shard in slow.shards]
    # Found unchanged afterwards: the encoder that was asked for is what counts.
    assert run_build(inputs, tmp_path / "out", spec).unchanged
    assert Manifest.load(tmp_path / "out") == manifest
    assert len(files_of(tmp_path / "out")) == len(files_of(tmp_path / "slow"))


def test_inputs_that_are_read_once_cannot_be_read_twice(tmp_path) -> None:
    import os

    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with pytest.raises(UserError, match="expected an input that can be read twice; dedup reads its inputs twice"):
        build_shards([pipe], tmp_path / "out", spec_of(), dedup=True)

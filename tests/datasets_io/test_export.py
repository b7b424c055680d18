from __future__ import annotations

import pyarrow.parquet as pq
import pytest

from datasets_io import ShardReader, ShardWriter, block_to_batch, datum_to_row, export_parquet
from renderers import Datum, ImageChunk, InputError, ModelInput, OptionError
from tests.datasets_io.shard_samples import rendered_block, save_manifest, write_folder


def test_the_export_is_what_was_rendered(tmp_path):
    block, meta = rendered_block([[8, 5], [6], [9, 2, 7], [5, 30, 5]])
    with ShardWriter(tmp_path, batch_rows=2, max_tokens=20) as writer:
        writer.write(block_to_batch(block, meta).batch)
    save_manifest(tmp_path, [writer])
    out = tmp_path / "out.parquet"
    assert export_parquet(tmp_path, out) == len(block)
    rows = pq.read_table(out).to_pylist()
    assert len(rows) == len(block)
    for row, example, line in zip(rows, block, [1, 1, 2, 3, 3, 3, 4, 4, 4], strict=True):
        tokens, weights = example.tokens.tolist(), example.weights.tolist()
        assert row == {
            "input_ids": tokens,
            "labels": [-100] + [t if w else -100 for t, w in zip(tokens[1:], weights[1:], strict=True)],
            "weights": [0.0, *weights[1:]],
            "source": "a.jsonl",
            "line": line,
        }


def test_every_codec_and_split_exports_the_same(tmp_path):
    block, meta = rendered_block([[8, 5], [6]])
    with ShardWriter(tmp_path, split="eval", codec="lz4") as writer:
        writer.write(block_to_batch(block, meta).batch)
    save_manifest(tmp_path, [writer])
    assert export_parquet(tmp_path, tmp_path / "out.parquet", split=None) == len(ShardReader(tmp_path, "eval"))


@pytest.mark.parametrize(
    ("datum", "place"),
    [
        (Datum(ModelInput([ImageChunk(b"", "png", 1, "a")]), {"target_tokens": [1], "weights": [1]}), "row 1: images"),
        (Datum(ModelInput.from_ints([1]), {"target_tokens": [[1, 2]], "weights": [1]}), "row 1: target_tokens"),
        (Datum(ModelInput.from_ints([1]), {"target_tokens": [2]}), "row 1: weights"),
    ],
)
def test_rows_without_one_label_per_token_are_refused(tmp_path, datum, place):
    plain = Datum(ModelInput.from_ints([1]), {"target_tokens": [2], "weights": [1]})
    write_folder(tmp_path, [datum_to_row(plain), datum_to_row(datum)])
    with pytest.raises(InputError, match=place):
        export_parquet(tmp_path, tmp_path / "out.parquet")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["manifest.json", "train-00000.arrow"]


def test_other_columns_are_refused(tmp_path):
    with pytest.raises(OptionError, match="columns: expected hf; got 'trl'"):
        export_parquet(tmp_path, tmp_path / "out.parquet", columns="trl")

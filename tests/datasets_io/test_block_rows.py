from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from datasets_io import ROLE_CODES, BatchView, block_to_batch, row_to_datum
from renderers import InternalError, to_datum
from tests.datasets_io.shard_samples import rendered_block

examples = st.lists(st.lists(st.integers(0, 9), max_size=3), max_size=5)


@given(examples, st.sampled_from(["none", "mean"]))
@settings(derandomize=True, max_examples=150, deadline=None)
def test_a_block_is_the_datums_of_its_examples(lengths, reduction):
    block, meta = rendered_block(lengths)
    result = block_to_batch(block, meta, reduction)
    result.batch.validate(full=True)
    view = BatchView(result.batch)
    short = [i for i, example in enumerate(block) if len(example.tokens) < 2]
    untrained = [i for i, example in enumerate(block) if i not in short and not example.weights[1:].any()]
    kept = [i for i in range(len(block)) if i not in short and i not in untrained]
    assert result.too_short.tolist() == short
    assert result.untrained.tolist() == untrained
    assert view.num_rows == len(kept)
    for row, i in enumerate(kept):
        expected = to_datum(block[i].tokens, block[i].weights, reduction=reduction)
        assert row_to_datum(view.row(row)) == expected
        assert view.numbers("num_tokens")[row] == expected.model_input.length
        assert view.numbers("num_trained")[row] == np.count_nonzero(block[i].weights[1:])


def test_weights_without_a_mean_are_left_out_and_told():
    block, meta = rendered_block([[4], [4], [4]])
    block.weights[5:8] = [1, -2, 0]
    result = block_to_batch(block, meta, "mean")
    assert result.without_mean.tolist() == [1]
    assert result.batch["line"].to_pylist() == [1, 3]
    assert block_to_batch(block, meta).batch.num_rows == 3


def test_provenance_comes_from_the_conversation():
    block, meta = rendered_block([[4, 5], [1, 6], [7]])
    view = BatchView(block_to_batch(block, meta).batch)
    rows = [view.provenance(i) for i in range(view.num_rows)]
    assert [(row.line, row.example, row.conversation_id, row.pair) for row in rows] == [
        (1, 0, "c0", "0"),
        (1, 1, "c0", "0"),
        (2, 1, None, "1"),  # its first example was too short; the number stays
        (3, 0, "c2", "2"),
    ]
    assert {(row.source, row.turn, row.side) for row in rows} == {("a.jsonl", -1, None)}
    assert rows[2].row_hash == (1).to_bytes(16, "big")


def test_segments_carry_the_roles_of_their_messages():
    block, meta = rendered_block([[8]])
    segments = BatchView(block_to_batch(block, meta).batch).segments(0)
    assert segments is not None
    assert segments.start.tolist() == [0, 1, 4]
    assert segments.message.tolist() == [-1, 0, 1]
    assert segments.role.tolist() == [-1, ROLE_CODES["user"], ROLE_CODES["assistant"]]


def test_a_message_that_does_not_exist_is_our_own_fault():
    block, meta = rendered_block([[8]])
    block.run_messages[-1] = 2
    with pytest.raises(InternalError, match="does not have"):
        block_to_batch(block, meta)

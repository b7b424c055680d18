"""The view of a row: exact bytes, whole characters, roles, and weights that sit on the token they train."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from datasets_io.lookup import render_views
from datasets_io.rows import ImageRef, Provenance, Row, Segments
from datasets_io.runs import whole_runs
from datasets_io.spec import RenderSpec
from datasets_io.view import RowView, view_row
from datasets_io.visible import token_text, visible
from renderers import InputError, Tokenizer, get_renderer, get_tokenizer

CONVERSATIONS = ["chat", "hostile", "multilingual", "reasoning", "tools"]


@pytest.fixture(scope="module")
def tokenizer(repository: Path) -> Tokenizer:
    return get_tokenizer(repository / "fixtures" / "tiny-chat")


def row_of(tokens: list[int], weights: Any = None, targets: Any = None, **more: Any) -> Row:
    return Row(
        np.array(tokens[:-1] if targets is None else tokens, np.int32),
        np.array(tokens[1:] if targets is None else targets, np.int32),
        None if weights is None else np.array(weights, np.float32),
        **more,
    )


def text_bytes(view: RowView) -> bytes:
    return b"".join(token.bytes for token in view.tokens)


# -- rendered conversations


@pytest.mark.parametrize(
    ("model", "name"), [*(("tiny-chat", name) for name in CONVERSATIONS), ("tiny-spm", "chat"), ("tiny-spm", "hostile")]
)
def test_views_say_what_the_renderer_made(repository: Path, name: str, model: str) -> None:
    """Bytes against the decoder, offsets against the bytes, each target against the token after it."""
    spec = RenderSpec(model=str(repository / "fixtures" / model), turns="single")
    path = repository / "fixtures" / "conversations" / f"{name}.jsonl"
    found = render_views(str(path), spec, range(1, 12))
    tokenizer = get_tokenizer(spec.model)
    assert len(found.views) + len(found.left_out) >= 11
    for view in found.views:
        ids = [token.id for token in view.tokens]
        assert None not in ids
        text = text_bytes(view).decode()
        decoded = tokenizer.decode([i for i in ids if i is not None])
        if tokenizer.has_prefix_space:  # whose decoder takes spaces away that tokens have
            text, decoded = text.replace(" ", ""), decoded.replace(" ", "")
        assert text == decoded
        assert view.tokens[0].weight is None
        offsets = [token.offset for token in view.tokens]
        assert offsets == [len(text_bytes(view)[:offset]) for offset in offsets]
        for token, following in zip(view.tokens, view.tokens[1:], strict=False):
            assert [(target.id, target.weight) for target in token.targets] == [(following.id, following.weight)]
        assert view.tokens[-1].targets == ()
        assert {token.role for token in view.tokens if token.trained} == {"assistant"}


def test_weights_and_roles_against_the_renderer(repository: Path, tokenizer: Tokenizer) -> None:
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hi 你好"},
        {"role": "assistant", "content": "Hello!", "weight": 0.5},
    ]
    renderer = get_renderer("auto", tokenizer)
    model_input, weights = renderer.build_supervised_example(messages)
    tokens = model_input.to_ints()
    segments = Segments(np.array([0, 6, 11], np.int32), np.array([0, 1, 2], np.int16), np.array([0, 2, 3], np.int8))
    view = view_row(row_of(tokens, weights[1:], segments=segments), tokenizer)
    assert [token.id for token in view.tokens] == tokens
    assert [token.weight for token in view.tokens] == [None, *weights[1:].tolist()]
    assert [token.message for token in view.tokens] == [0] * 6 + [1] * 5 + [2] * (len(tokens) - 11)
    assert {(t.message, t.role) for t in view.tokens} == {(0, "system"), (1, "user"), (2, "assistant")}
    assert view.num_trained == np.count_nonzero(weights)
    assert view.largest_weight == 0.5
    assert [len(part) for part in view.messages()] == [6, 5, len(tokens) - 11]


# -- characters of several tokens


def test_characters_of_several_tokens_are_shown_whole(tokenizer: Tokenizer) -> None:
    text = "a 狐 👍🏽 🇯🇵 कि\n"
    tokens = tokenizer.encode_text(text)
    view = view_row(row_of([*tokens, tokens[0]]), tokenizer)
    shown = "".join(token.run_text or token.text for token in view.tokens[:-1] if token.run == token.position)
    assert shown == "a␣狐␣👍🏽␣🇯🇵␣कि↵"
    assert any("⟨" in token.text for token in view.tokens)
    runs = {token.run for token in view.tokens if token.run != token.position}
    assert all(view.tokens[run].run_text for run in runs)


@pytest.mark.parametrize(
    ("parts", "expected"),
    [
        ([b"a", b"b"], []),
        ([b"\xe4\xbd", b"\xa0"], [(0, 2)]),
        ([b" \xe4", b"\xbd\xa0\xe5", b"\xa5\xbd"], [(0, 3)]),
        # Never whole: cut off at the end, broken by other text, broken by a control token.
        ([b"\xe4\xbd"], []),
        ([b"\xe4\xbd", b"a", b"\xe4\xbd", b"\xa0"], [(2, 4)]),
        ([b"\xe4\xbd", None, b"\xa0"], []),
        ([b"\xff", b"\xe4\xbd", b"\xa0"], [(1, 3)]),
        ([b"\xe4", b"\xe4\xbd", b"\xa0", b"\xbd"], [(1, 3)]),
        # Whole, but one character to a reader.
        (["क".encode(), "ि".encode()], [(0, 2)]),
        (["👩".encode(), "\u200d".encode(), "👧".encode()], [(0, 3)]),
        (["👍".encode(), "🏽".encode()], [(0, 2)]),
        (["🇯".encode(), "🇵".encode(), "🇫".encode(), "🇷".encode()], [(0, 2), (2, 4)]),
        ([b"\n", "\u0301".encode()], []),
        ([b"", b"a"], []),
    ],
)
def test_runs(parts: list[bytes | None], expected: list[tuple[int, int]]) -> None:
    assert whole_runs(parts, lambda _left, _right: True) == expected


def test_runs_stop_where_they_may_not_join() -> None:
    parts: list[bytes | None] = ["क".encode(), "ि".encode()]
    assert whole_runs(parts, lambda _left, _right: False) == []


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a b", "a␣b"),
        ("x\n\ty\r", "x↵⇥y␍"),
        ("\x00\x1b\x7f\u0085", "⟨U+0000⟩⟨U+001B⟩⟨U+007F⟩⟨U+0085⟩"),
        ("\u202e\u200b\ufeff\u2028\u3000\xa0", "⟨U+202E⟩⟨U+200B⟩⟨U+FEFF⟩⟨U+2028⟩⟨U+3000⟩⟨U+00A0⟩"),
        # Our own marks in the text are not mistaken for marks.
        ("␣↵⟨⟩", "⟨U+2423⟩⟨U+21B5⟩⟨U+27E8⟩⟨U+27E9⟩"),
        ("\u0301a", "◌\u0301a"),
        ("👩\u200d👧", "👩\u200d👧"),
        ("\u200d", "⟨U+200D⟩"),
        ("a\u200db", "a⟨U+200D⟩b"),
    ],
)
def test_visible(text: str, expected: str) -> None:
    assert visible(text) == expected
    assert visible(text).isprintable() or "\u200d" in text


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"abc", "abc"),
        (b" \xe4\xbd", "␣⟨E4 BD⟩"),
        (b"\xa0\xe5", "⟨A0⟩⟨E5⟩"),
        (b"\xff\xfea", "⟨FF⟩⟨FE⟩a"),
        (b"\xed\xa0\x80", "⟨ED A0 80⟩"),
        (b"", "⟨⟩"),
    ],
)
def test_token_text(data: bytes, expected: str) -> None:
    assert token_text(data) == expected


# -- datums of other shapes


def test_targets_that_are_not_the_next_tokens(tokenizer: Tokenizer) -> None:
    tokens, targets = [10, 11, 12], [[20, 21], [22, 23], [24, 25]]
    weights = [[0.75, 0.25], [0, 0], [-1, 0]]
    view = view_row(row_of(tokens, weights, targets), tokenizer)
    assert not view.shifted
    assert [token.id for token in view.tokens] == tokens
    assert [token.weight for token in view.tokens] == [1, 0, -1]
    assert [[(t.id, t.weight) for t in token.targets] for token in view.tokens] == [
        [(20, 0.75), (21, 0.25)],
        [(22, 0), (23, 0)],
        [(24, -1), (25, 0)],
    ]


def test_a_datum_without_weights_counts_every_position(tokenizer: Tokenizer) -> None:
    view = view_row(row_of([10, 11, 12]), tokenizer)
    assert not view.weighted
    assert [token.weight for token in view.tokens] == [None, 1, 1]


def test_a_datum_without_targets(tokenizer: Tokenizer) -> None:
    view = view_row(Row(np.array([10, 11], np.int32), None, None), tokenizer)
    assert not view.shifted
    assert [token.targets for token in view.tokens] == [(), ()]


def test_an_image_is_one_token_of_its_length(tokenizer: Tokenizer) -> None:
    row = row_of([10, 0, 0, 0, 11, 12], [0, 0, 0, 0, 1], images=(ImageRef(1, 3, "png", "cat.png"),))
    view = view_row(row, tokenizer)
    assert view.shifted
    assert [(token.position, token.length, token.id) for token in view.tokens] == [
        (0, 1, 10),
        (1, 3, None),
        (4, 1, 11),
        (5, 1, 12),
    ]
    assert view.tokens[1].text == "⟨image png cat.png ×3⟩"
    assert view.tokens[0].targets == ()
    assert view.num_tokens == 6
    assert view.num_trained == 1


def test_further_loss_inputs_are_shown_by_position(tokenizer: Tokenizer) -> None:
    row = row_of([10, 11, 12], [0, 1], losses={"advantages": np.array([0, -2], np.float32)})
    view = view_row(row, tokenizer)
    assert [token.inputs for token in view.tokens] == [{"advantages": 0}, {"advantages": -2}, {}]


def test_place_and_facts(tokenizer: Tokenizer) -> None:
    place = Provenance("a.jsonl", 7, turn=3, example=1, conversation_id="x", pair="p", side="chosen")
    view = view_row(row_of([10, 11], [1], provenance=place), tokenizer, 4, "train row 4")
    assert view.place == "a.jsonl:7"
    assert view.facts == {"last trained message": "3", "example": "1", "id": "x", "pair": "p", "side": "chosen"}
    value = view.to_json()
    assert (value["number"], value["name"], value["num_tokens"], value["num_trained"]) == (4, "train row 4", 2, 1)
    assert value["tokens"][1]["bytes"] == tokenizer.token_bytes(11).hex()


def test_a_token_of_another_vocabulary_is_refused(tokenizer: Tokenizer) -> None:
    with pytest.raises(InputError, match=r"^tokens\[0\]: expected an id of this vocabulary; got 99999"):
        view_row(row_of([99999, 10, 11], [0, 1]), tokenizer)
    with pytest.raises(InputError, match=r"target_tokens\[0\]: expected an id"):
        view_row(row_of([10], [1], [99999]), tokenizer)

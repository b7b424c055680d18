"""Tokens to text one by one, against decoding them at once."""

from __future__ import annotations

import random

import pytest
from tokenizers import Tokenizer as HfTokenizer
from tokenizers import decoders, models

from renderers import Tokenizer, get_tokenizer
from renderers.parsing.detokenize import detokenizer
from tests.renderers.parsing.renderers_at_hand import FIXTURES, TOKENIZERS

FOLDERS = ["tiny-chat", "tiny-headers", "tiny-spm"]
REAL = ["deepseek-v3", "gpt-oss", "mistral-nemo", "phi-3.5", "qwen3"] if TOKENIZERS else []


def load(name: str) -> Tokenizer:
    if name.startswith("tiny-"):
        return get_tokenizer(FIXTURES / name)
    assert TOKENIZERS is not None
    return get_tokenizer(TOKENIZERS / name)


def one_by_one(tokenizer: Tokenizer, tokens: list[int]) -> list[str]:
    decoder = detokenizer(tokenizer)
    decoder.start(continuation=False)
    parts = [decoder.feed(token) for token in tokens]
    assert decoder.num_decoded == len(tokens)
    return [*parts, decoder.flush()]


@pytest.mark.parametrize("name", [*FOLDERS, *(pytest.param(name, marks=pytest.mark.slow) for name in REAL)])
def test_random_ids_decode_as_at_once(name: str) -> None:
    tokenizer = load(name)
    rng = random.Random(3)
    plain = [i for i in range(min(tokenizer.vocab_size, 4000)) if i not in tokenizer.control_ids]
    assert len(plain) > 500
    for _ in range(150):
        tokens = [rng.choice(plain) for _ in range(rng.randint(0, 12))]
        assert "".join(one_by_one(tokenizer, tokens)) == tokenizer.decode(tokens)


@pytest.mark.parametrize("name", FOLDERS)
@pytest.mark.parametrize("text", [" a", "  two spaces", "é👩‍👩‍👧 中文", "\n\n", "𝔘𝔫𝔦", "x \u200f y"])
def test_text_comes_back_with_whole_characters(name: str, text: str) -> None:
    tokenizer = load(name)
    parts = one_by_one(tokenizer, tokenizer.encode_text(text))
    assert "".join(parts) == text
    assert not any("\ufffd" in part for part in parts)


def test_the_prefix_space_is_no_text_at_a_start_and_text_in_the_middle() -> None:
    tokenizer = load("tiny-spm")
    decoder = detokenizer(tokenizer)
    tokens = tokenizer.encode_text("and more")
    for continuation, expected in ((False, "and more"), (True, " and more")):
        decoder.start(continuation=continuation)
        assert "".join([*map(decoder.feed, tokens), decoder.flush()]) == expected


def test_unknown_ids_are_seen() -> None:
    for name in FOLDERS:
        tokenizer = load(name)
        assert "".join(one_by_one(tokenizer, [tokenizer.vocab_size + 5, -1])) == "\ufffd\ufffd"


def test_other_decoders_wait_for_the_end_of_the_text() -> None:
    words = HfTokenizer(models.WordPiece({"[UNK]": 0, "one": 1, "##s": 2, "two": 3}, unk_token="[UNK]"))
    words.decoder = decoders.WordPiece()
    tokenizer = Tokenizer(words.to_str(), name="words")
    parts = one_by_one(tokenizer, [1, 2, 3])
    assert parts == ["", "", "", "ones two"]

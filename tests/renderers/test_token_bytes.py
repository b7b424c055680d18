"""The bytes of single tokens, joined, are the text's UTF-8: for every kind of tokenizer, whatever the text."""

from __future__ import annotations

from pathlib import Path

import pytest

from renderers import InputError, Tokenizer, UserError, get_tokenizer

TEXTS = [
    "Hello world",
    "  two spaces,\ttab\r\nand\n\n\nlines  ",
    "你好，世界 ありがとう 한국어",
    "👩‍👩‍👧‍👦 🇯🇵 👍🏽 ☕️ 🦊",
    "परिचय สวัสดี العربية עברית",
    "é e\u0301 ñ Å ﬁ ①",
    "\x00\x01\x1b[31m \x7f \u0085 \u200b \ufeff \u2028",
    "<0x0A> ▁ Ġ Ċ ĠHello <|not_a_token|>",
    "a" * 300,
    "𐍈𝄞\U0010ffff",
]
FIXTURES = ["tiny-chat", "tiny-headers", "tiny-spm"]
REAL = ["deepseek-v3", "glm-4.5", "gpt-oss", "kimi-k2", "llama3.1", "mistral-nemo", "nemotron3", "phi-3.5"]
REAL += ["qwen2.5", "qwen3", "qwen3.5"]


def joined(tokenizer: Tokenizer, ids: list[int]) -> bytes:
    return b"".join(tokenizer.token_bytes(i) for i in ids)


def assert_lossless(tokenizer: Tokenizer) -> None:
    normalises = bool(tokenizer.encode("e\u0301") == tokenizer.encode("\u00e9"))
    for text in TEXTS:
        if normalises and "\u0301" in text:
            continue
        # SentencePiece puts a space before a text and cannot tell its own mark for a space from one.
        expected = f" {text}".replace("▁", " ") if tokenizer.has_prefix_space else text
        assert joined(tokenizer, tokenizer.encode(text)) == expected.encode()
    for control in tokenizer.control.values():
        assert tokenizer.token_bytes(control.id) == control.text.encode()


@pytest.mark.parametrize("name", FIXTURES)
def test_bytes_of_fixture_tokenizers(repository: Path, name: str) -> None:
    assert_lossless(get_tokenizer(repository / "fixtures" / name))


@pytest.mark.slow
@pytest.mark.parametrize("name", REAL)
def test_bytes_of_real_tokenizers(real_data: Path, name: str) -> None:
    assert_lossless(get_tokenizer(real_data / "tokenizers" / name, backend="tokenizers"))


@pytest.mark.parametrize("name", FIXTURES)
def test_every_token_decodes_to_its_bytes(repository: Path, name: str) -> None:
    """Against the decoder of `tokenizers`, where one token alone can be decoded."""
    tokenizer = get_tokenizer(repository / "fixtures" / name)
    whole = 0
    for i in range(tokenizer.vocab_size):
        data = tokenizer.token_bytes(i)
        try:
            text = data.decode()
        except UnicodeDecodeError:
            assert "\ufffd" in tokenizer.decode([i])
            continue
        decoded = tokenizer.decode([i])
        # A text's first space is not its own with SentencePiece; its decoder takes one away.
        assert decoded in ((text, text[1:]) if tokenizer.has_prefix_space and text.startswith(" ") else (text,))
        whole += 1
    assert whole > tokenizer.vocab_size // 2


def test_unknown_ids_are_refused(repository: Path) -> None:
    tokenizer = get_tokenizer(repository / "fixtures" / "tiny-chat")
    for wrong in (-1, tokenizer.vocab_size, 10**9):
        with pytest.raises(InputError, match=f"expected an id of this vocabulary; got {wrong}"):
            tokenizer.token_bytes(wrong)


def test_a_tokenizer_without_bytes_is_refused() -> None:
    spec = (
        '{"version": "1.0", "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,'
        '"truncation": null, "padding": null, "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},'
        '"model": {"type": "WordPiece", "vocab": {"[UNK]": 0, "a": 1}, "unk_token": "[UNK]",'
        '"continuing_subword_prefix": "##", "max_input_chars_per_word": 100}}'
    )
    with pytest.raises(UserError, match=r"decoder: expected one of .*; got WordPiece"):
        Tokenizer(spec, backend="tokenizers").token_bytes(1)

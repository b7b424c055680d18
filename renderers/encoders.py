"""Text to ids, many texts in one call, with no added token ever recognised.

Two back ends give the same ids: `tokenizers`, the reference, and `fastokens`, tens of times faster, used only while
it agrees with the reference (checked on hostile strings when it is loaded and on a sample of real text as it works).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from .tokenizer_file import TokenizerFile

__all__ = [
    "Backend",
    "FastokensEncoder",
    "FlatIds",
    "TextEncoder",
    "TokenizersEncoder",
    "hostile_strings",
    "puts_prefix_space",
    "text_only_jsons",
]

Backend = Literal["auto", "fastokens", "tokenizers"]
FlatIds = tuple[npt.NDArray[np.int32], npt.NDArray[np.int64]]
"""ids int32 (total,) of all texts one after another, offsets int64 (num_texts + 1,)."""

_WHITESPACE_PREFIX = "▁"


class TextEncoder(Protocol):
    """Encodes plain text; control tokens in it stay text."""

    name: str

    def encode_batch(self, texts: Sequence[str]) -> FlatIds: ...


def text_only_jsons(file: TokenizerFile) -> tuple[str, str]:
    """Two tokenizer.json texts that know no control tokens: for text at the start of a stretch, and for text that
    follows other text, where SentencePiece style tokenizers put no space in front. The same object when they agree.

    White-space-only added tokens stay: they are ordinary text to whoever writes it.
    """
    plain = {
        "added_tokens": [token for token in file.fields.get("added_tokens") or [] if token["content"].isspace()],
        "post_processor": None,
        "truncation": None,
        "padding": None,
    }
    start = file.with_fields(**plain)
    return start, file.with_fields(**plain, **_following(file)) if puts_prefix_space(file) else start


def puts_prefix_space(file: TokenizerFile) -> bool:
    """Whether the tokenizer puts a space before text at its start."""
    return any(file.fields.get(key) != value for key, value in _following(file).items())


def _following(file: TokenizerFile) -> dict[str, Any]:
    """The fields that are other for text that follows other text."""
    return {
        "normalizer": _without_prepend(file.fields.get("normalizer")),
        "pre_tokenizer": _without_prefix_space(file.fields.get("pre_tokenizer")),
    }


def _without_prepend(normalizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if normalizer is None:
        return None
    if normalizer["type"] == "Prepend":
        return None
    if normalizer["type"] == "Sequence":
        inner = [_without_prepend(part) for part in normalizer["normalizers"]]
        return {"type": "Sequence", "normalizers": [part for part in inner if part is not None]}
    return normalizer


def _without_prefix_space(pre_tokenizer: dict[str, Any] | None) -> dict[str, Any] | None:
    if pre_tokenizer is None:
        return None
    if pre_tokenizer["type"] == "Sequence":
        return pre_tokenizer | {
            "pretokenizers": [_without_prefix_space(part) for part in pre_tokenizer["pretokenizers"]]
        }
    if pre_tokenizer["type"] == "Metaspace":
        # Older files spell the scheme as `add_prefix_space`, newer ones as `prepend_scheme`.
        return {key: value for key, value in pre_tokenizer.items() if key != "add_prefix_space"} | {
            "prepend_scheme": "never"
        }
    if pre_tokenizer["type"] == "ByteLevel":
        return pre_tokenizer | {"add_prefix_space": False}
    return pre_tokenizer


class TokenizersEncoder:
    """The reference: Hugging Face `tokenizers`."""

    name = "tokenizers"

    def __init__(self, text_json: str) -> None:
        from tokenizers import Tokenizer

        self._tokenizer = Tokenizer.from_str(text_json)

    def encode_batch(self, texts: Sequence[str]) -> FlatIds:
        encodings = self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        rows = [encoding.ids for encoding in encodings]
        offsets = np.zeros(len(rows) + 1, np.int64)
        np.cumsum([len(row) for row in rows], out=offsets[1:])
        flat = np.fromiter((token for row in rows for token in row), np.int32, count=int(offsets[-1]))
        return flat, offsets


class FastokensEncoder:
    """The fast one. Raises whatever `fastokens` raises when it cannot express this tokenizer."""

    name = "fastokens"

    def __init__(self, text_json: str) -> None:
        import fastokens

        self._tokenizer: Any = fastokens.Tokenizer.from_json_str(text_json)

    def encode_batch(self, texts: Sequence[str]) -> FlatIds:
        ids, offsets = self._tokenizer.encode_batch_flat(list(texts))
        return np.frombuffer(ids, np.uint32).view(np.int32), np.frombuffer(offsets, np.uint64).view(np.int64)


def hostile_strings() -> list[str]:
    """Fixed strings on which tokenizers disagree when they disagree at all."""
    pieces = [
        "Hello, world!",
        "don't I'LL we've",
        "  two  spaces  ",
        "\n\n\nlines\r\n\r\n",
        "tab\t\tx=1;\t",
        " 123456789 3.14159",
        "naïve café e\u0301 a\u0308\u0323",
        "한국어 \u1112\u1161\u11ab",
        "中文，混合English文本。",
        "日本語テキスト",
        "العربية ١٢٣",
        "हिन्दी क्‍ष",
        "👩‍👩‍👧‍👦 👍🏽 🇩🇪",
        "\u00a0\u2003\u3000x",
        "K\u212a\u2126\ufb01",
        "<|im_end|>",
        "<|im_start|>user",
        "</s><s>[INST]",
        "<think>\n</think>",
        "<|eot_id|",
        "｜User｜>",
        "a" * 300,
        " " * 70,
        "\n" * 40,
        "_under_score__",
        "http://x.y/z?q=1&r=%20",
        "def f(x):\n    return x\n",
        "ﬁ\u200b\u200d\ufeff",
        "\x00\x01\x1f\x7f",
        "\U0001f600\U0010ffff",
        "İıſß",
        "...!!!???",
        '{"a": [1, 2.5e-3, null]}',
        "\u2028\u2029",
    ]
    joined = [left + right for left, right in zip(pieces, pieces[7:] + pieces[:7], strict=True)]
    edged = [edge + piece for piece in pieces for edge in (" ", "\n", "\n\n", "\t")]
    return [*pieces, *joined, *edged, "".join(pieces), ""]

"""Tokenizers: text stays text, fast equals reference, boundaries, threads, pickling, loading."""

from __future__ import annotations

import json
import pickle
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renderers import OptionError, ParityError, Tokenizer, UserError, get_renderer, get_tokenizer
from renderers.encoders import hostile_strings

FOLDERS = ["tiny-chat", "tiny-headers", "tiny-spm"]


@pytest.fixture(scope="session")
def tokenizers(repository: Path) -> dict[str, Tokenizer]:
    return {name: get_tokenizer(repository / "fixtures" / name) for name in FOLDERS}


@pytest.mark.parametrize("name", FOLDERS)
@settings(derandomize=True, max_examples=60, deadline=None)
@given(text=st.text(max_size=60), which=st.integers(0, 9))
def test_control_tokens_in_text_stay_text(tokenizers: dict[str, Tokenizer], name: str, text: str, which: int) -> None:
    tokenizer = tokenizers[name]
    words = list(tokenizer.control)
    typed = text + words[which % len(words)] + text
    ids = tokenizer.encode_text(typed)
    assert not tokenizer.control_ids & set(ids)
    assert typed in tokenizer.decode(ids).replace("\ufffd", "") or "\x00" in text or tokenizer.has_prefix_space


@pytest.mark.parametrize("name", FOLDERS)
def test_fast_and_reference_encoders_agree(repository: Path, name: str) -> None:
    pytest.importorskip("fastokens", reason="fastokens has no wheel here")
    fast = get_tokenizer(repository / "fixtures" / name, backend="fastokens")
    reference = get_tokenizer(repository / "fixtures" / name, backend="tokenizers")
    assert (fast.backend_name, reference.backend_name) == ("fastokens", "tokenizers")
    for continuation in (False, True):
        ids, offsets = fast.encode_texts(hostile_strings(), continuation=continuation)
        expected, expected_offsets = reference.encode_texts(hostile_strings(), continuation=continuation)
        assert ids.tolist() == expected.tolist()
        assert offsets.tolist() == expected_offsets.tolist()


def test_a_fast_encoder_that_differs_is_found_while_it_works(repository: Path) -> None:
    pytest.importorskip("fastokens", reason="fastokens has no wheel here")
    tokenizer = get_tokenizer(repository / "fixtures" / "tiny-chat")
    assert tokenizer.backend_name == "fastokens"
    encoder = tokenizer._encoders[0]

    class Wrong:
        name = "fastokens"

        def encode_batch(self, texts: list[str]) -> object:
            return encoder.encode_batch([text.replace("needle", "thread") for text in texts])

    tokenizer.__dict__["_encoders"] = (Wrong(), Wrong())
    tokenizer.encode_texts(["all is well"] * 70)
    with pytest.raises(ParityError, match="needle"):
        tokenizer.encode_texts(["needle"] * 2000)  # one text in a thousand is looked at


def test_a_tokenizer_that_fastokens_gets_wrong_falls_back_and_says_so(repository: Path) -> None:
    unigram = {
        "version": "1.0",
        "added_tokens": [],
        "normalizer": None,
        "pre_tokenizer": None,
        "post_processor": None,
        "decoder": None,
        "model": {
            "type": "Unigram",
            "unk_id": 0,
            "vocab": [["<unk>", 0.0], ["a", -1.0], ["b", -2.0]],
            "byte_fallback": False,
        },
    }
    tokenizer = Tokenizer(json.dumps(unigram), name="unigram")
    assert tokenizer.encode_text("ab") == [1, 2]
    assert tokenizer.backend_name == "tokenizers"
    assert tokenizer.fallback_reason
    with pytest.raises(UserError, match="fastokens cannot encode"):
        Tokenizer(json.dumps(unigram), name="unigram", backend="fastokens").encode_text("ab")


@pytest.mark.parametrize("name", FOLDERS)
@settings(derandomize=True, max_examples=80, deadline=None)
@given(right=st.text(min_size=1, max_size=20) | st.text(alphabet=" ab1é中\n", min_size=1, max_size=5))
def test_boundaries_are_judged_as_the_full_encoding_judges_them(
    tokenizers: dict[str, Tokenizer], name: str, right: str
) -> None:
    tokenizer = tokenizers[name]
    long = "A line of its own, and then some more of it, so that this is no short text.\n\nAssistant:"
    longer = "word " * 30 + "and an end."
    for left in ("assistant\n", "a", "say: ", long, long + " ", longer, longer + "\n"):
        whole = tokenizer.encode_text(left + right)
        parts = tokenizer.encode_text(left) + tokenizer.encode_text(right, continuation=True)
        assert tokenizer.joins_cleanly(left, right) == (whole == parts)


def test_eight_threads_share_one_tokenizer(repository: Path) -> None:
    tokenizer = get_tokenizer(repository / "fixtures" / "tiny-chat")
    renderer = get_renderer("auto", tokenizer)
    chats = [[{"role": "user", "content": f"{text} {i}"}] for i, text in enumerate(hostile_strings() * 4)]
    with ThreadPoolExecutor(8) as threads:
        together = list(threads.map(lambda chat: renderer.build_generation_prompt(chat).to_ints(), chats))
    alone = get_renderer("auto", get_tokenizer(repository / "fixtures" / "tiny-chat"))
    assert together == [alone.build_generation_prompt(chat).to_ints() for chat in chats]


def test_pickled_tokenizer_is_the_same(tokenizers: dict[str, Tokenizer]) -> None:
    for tokenizer in tokenizers.values():
        copy = pickle.loads(pickle.dumps(tokenizer))
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.special_tokens == tokenizer.special_tokens
        assert copy.chat_template == tokenizer.chat_template
        assert copy.encode("<|im_end|>x") == tokenizer.encode("<|im_end|>x")


def test_loading(repository: Path, tmp_path: Path) -> None:
    from tokenizers import Tokenizer as HfTokenizer

    folder = repository / "fixtures" / "tiny-chat"
    loaded = get_tokenizer(folder)
    bare = get_tokenizer(HfTokenizer.from_file(str(folder / "tokenizer.json")))
    assert bare.encode("<|im_end|>x") == loaded.encode("<|im_end|>x")
    assert bare.chat_template is None
    assert get_tokenizer(loaded) is loaded
    with pytest.raises(UserError, match=r"expected a tokenizer\.json"):
        get_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such folder"):
        get_tokenizer("./nowhere")
    with pytest.raises(UserError, match="could not be fetched"):
        get_tokenizer("some-org/no-such-model")
    with pytest.raises(OptionError, match="got int"):
        get_tokenizer(3)
    with pytest.raises(OptionError, match="expected auto, fastokens or tokenizers"):
        get_tokenizer(folder, backend="fast")  # type: ignore[arg-type]


def test_transformers_tokenizers_are_taken_as_they_are(repository: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="transformers (extra `train`) is not installed")
    theirs = transformers.AutoTokenizer.from_pretrained(repository / "fixtures" / "tiny-chat")
    renderer = get_renderer("auto", theirs)
    messages = [{"role": "user", "content": "Hi there"}]
    expected = theirs.apply_chat_template(messages, add_generation_prompt=True, return_dict=False)
    assert renderer.build_generation_prompt(messages).to_ints() == expected
    assert renderer.tokenizer.special_tokens["eos_token"] == theirs.eos_token

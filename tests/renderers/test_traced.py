"""Traced strings behave as strings, and each character keeps where it came from."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renderers.traced import TEMPLATE, Traced, concat, origin_of, trace, traced_json

TEXT = st.text(alphabet="ab <|>\n\té中\u3000", max_size=12)


def by_position(text: str) -> Traced:
    """Every character with an origin of its own, so that a misplaced one shows."""
    return Traced(text, "".join(chr(0x1000 + i) for i in range(len(text))))


def origins_follow(result: str, source: str) -> None:
    """Each character of `result` names a position of `source` that holds the same character."""
    for character, origin in zip(str.__str__(result), origin_of(result), strict=True):
        assert source[ord(origin) - 0x1000] == character


@settings(derandomize=True, max_examples=150)
@given(TEXT, st.sampled_from(["strip", "lstrip", "rstrip"]), st.sampled_from([None, " ", "\n", "a<"]))
def test_strip(text: str, method: str, chars: str | None) -> None:
    result = getattr(by_position(text), method)(chars)
    assert str.__str__(result) == getattr(text, method)(chars)
    origins_follow(result, text)


@settings(derandomize=True, max_examples=150)
@given(TEXT, st.sampled_from([None, " ", "<|", "a", "\n"]), st.sampled_from([-1, 0, 1, 2]))
def test_split(text: str, separator: str | None, maxsplit: int) -> None:
    for method in ("split", "rsplit"):
        parts = getattr(by_position(text), method)(separator, maxsplit)
        assert [str.__str__(part) for part in parts] == getattr(text, method)(separator, maxsplit)
        for part in parts:
            origins_follow(part, text)


@settings(derandomize=True, max_examples=150)
@given(TEXT, st.booleans(), st.integers(-4, 4), st.integers(-4, 4))
def test_slices_lines_partition(text: str, keep: bool, start: int, stop: int) -> None:
    traced = by_position(text)
    origins_follow(traced[start:stop], text)
    assert str.__str__(traced[start:stop]) == text[start:stop]
    for ours, theirs in (
        (traced.splitlines(keep), text.splitlines(keep)),
        (traced.partition("<"), text.partition("<")),
        (traced.rpartition("<"), text.rpartition("<")),
        ([traced.removeprefix("a")], [text.removeprefix("a")]),
        ([traced.removesuffix(">")], [text.removesuffix(">")]),
        (list(traced), list(text)),
    ):
        assert [str.__str__(part) for part in ours] == list(theirs)
        for part in ours:
            origins_follow(part, text)


@settings(derandomize=True, max_examples=100)
@given(TEXT, TEXT)
def test_sums_and_joins_keep_both_sides(text: str, plain: str) -> None:
    traced = by_position(text)
    for result, expected, origins in (
        (traced + plain, text + plain, traced.origin + TEMPLATE * len(plain)),
        (plain + traced, plain + text, TEMPLATE * len(plain) + traced.origin),
        (concat([plain, traced, plain]), plain + text + plain, None),
        (traced.join([plain, plain]), text.join([plain, plain]), None),
    ):
        assert str.__str__(result) == expected
        assert len(origin_of(result)) == len(expected)
        if origins is not None:
            assert origin_of(result) == origins


def test_replace_gives_the_new_text_its_own_origin() -> None:
    result = trace("a<b<c", "\1").replace("<", trace("xy", "\2"))
    assert str.__str__(result) == "axybxyc"
    assert result.origin == "\1\2\2\1\2\2\1"
    assert trace("a<b", "\1").replace("<", "__").origin == "\1\0\0\1"


@pytest.mark.parametrize(
    "call",
    [
        lambda s: s.upper(),
        lambda s: s.title(),
        lambda s: s.center(20),
        lambda s: s % (),
        lambda s: s.format(),
        lambda s: f"{s:>9}",
        lambda s: s.expandtabs(),
        lambda s: s.casefold(),
    ],
)
def test_what_cannot_be_followed_is_message_text(call: object) -> None:
    result = call(Traced("ß<|x|>", "\0\1\1\1\1\1"))  # type: ignore[operator]
    assert str.__str__(result) == call("ß<|x|>")  # type: ignore[operator]
    changed = len(str.__str__(result)) != 6
    assert TEMPLATE not in origin_of(result) or not changed


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-9, 9) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=8,
)


@settings(derandomize=True, max_examples=150)
@given(JSON, st.booleans(), st.booleans(), st.sampled_from([None, 2]))
def test_traced_json_is_json_dumps(value: object, ascii_only: bool, sort: bool, indent: int | None) -> None:
    options = {"ensure_ascii": ascii_only, "sort_keys": sort, "indent": indent}
    result = traced_json(trace(value, "\5"), **options)
    expected = json.dumps(value, **options)
    assert str.__str__(result) == expected
    # Strings are the message's; structure is the template's.
    for character, origin in zip(expected, origin_of(result), strict=True):
        if character in "<|>é中":
            assert origin == "\5"
        if character in "{}[]":
            assert origin == TEMPLATE

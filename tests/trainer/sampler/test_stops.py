"""Stop rules: ids, strings over token boundaries, none at all."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")
from trainer.protocol import SamplingParams  # noqa: E402
from trainer.sampler.stops import StopRule  # noqa: E402

WORDS = ["ab", "c", "", "\u00e9", "User", ":", " x"]


def spell(tokens):
    return "".join(WORDS[t % len(WORDS)] for t in tokens)


def _greedy(make_sampler, prompt, **how):
    sampler = make_sampler(**how.pop("options", {}))
    return sampler.sample(prompt(9), SamplingParams(max_tokens=12, seed=6, **how)).sequences[0]


def test_ids_stop_and_stay(make_sampler, prompt):
    whole = _greedy(make_sampler, prompt, stop=[])
    third = whole.tokens[2]
    cut = _greedy(make_sampler, prompt, stop=[third])
    place = whole.tokens.index(third)
    assert (cut.tokens, cut.stop_reason) == (whole.tokens[: place + 1], "stop")
    assert len(cut.logprobs) == len(cut.tokens)


def test_end_of_sequence_stops_only_by_default(make_sampler, prompt):
    whole = _greedy(make_sampler, prompt, stop=[])
    options = {"end_of_sequence": (whole.tokens[4],)}
    place = whole.tokens.index(whole.tokens[4])
    assert _greedy(make_sampler, prompt, options=options).tokens == whole.tokens[: place + 1]
    assert _greedy(make_sampler, prompt, options=options, stop=[]).tokens == whole.tokens
    other = next(t for t in range(320) if t not in whole.tokens)
    assert _greedy(make_sampler, prompt, options=options, stop=[other]).tokens == whole.tokens


@pytest.mark.parametrize("first", range(1, 8))
def test_strings_stop_across_token_boundaries(first, make_sampler, prompt):
    """Every stretch of the output's text is found at the first token that completes it."""
    options = {"decode": spell}
    whole = _greedy(make_sampler, prompt, options=options, stop=[])
    text = spell(whole.tokens)
    wanted = text[first : first + 5]
    cut = _greedy(make_sampler, prompt, options=options, stop=["never said", wanted])
    expected = next(n for n in range(1, 13) if wanted in spell(whole.tokens[:n]))
    assert (cut.tokens, cut.stop_reason) == (whole.tokens[:expected], "stop")
    assert _greedy(make_sampler, prompt, options=options, stop=wanted).tokens == cut.tokens


def test_bytes_of_one_character_over_tokens():
    """A byte-level decoder: a four-byte character comes over four tokens, and a window may start inside one."""

    def decode(tokens):
        return bytes(tokens).decode("utf-8", errors="replace")

    rule = StopRule(frozenset(), ("\U0001f600!",), decode)
    stream = list(("\U0001f680" * 30 + "\U0001f600!").encode())
    hits = [n for n in range(1, len(stream) + 1) if rule.matches(stream[:n])]
    assert hits == [len(stream)]


def test_stop_at_the_very_first_token(make_sampler, prompt):
    first = _greedy(make_sampler, prompt, stop=[]).tokens[0]
    assert _greedy(make_sampler, prompt, stop=[first]).tokens == [first]

"""The next prompt without rendering again: the same tokens where it can be, the sampled ones always, a reason else."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from renderers import InputError, Renderer, merge_rollout
from renderers.stretches import starts_with, stretches
from tests.renderers.extension_grid import steps
from tests.renderers.parsing.renderers_at_hand import EVERY, FIXTURE, Key, name_of, renderer_of, turns

COUNTEREXAMPLES = Path(__file__).parent / "vectors" / "extension_counterexamples.json"
USER = {"role": "user", "content": "Hi"}
AGAIN = {"role": "user", "content": "And then?"}
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "look",
            "description": "Looks.",
            "parameters": {"type": "object", "properties": {"at": {"type": "string"}}, "required": ["at"]},
        },
    }
]


def call(number: int) -> dict[str, Any]:
    return {
        "type": "function",
        "id": f"call{number:05d}",
        "function": {"name": "look", "arguments": {"at": str(number)}},
    }


@pytest.mark.parametrize("key", EVERY)
def test_extensions_on_the_grid(key: Key) -> None:
    renderer = renderer_of(key)
    extended = 0
    for step in steps(renderer, 1):
        sampled = step.sampled
        if renderer.has_extension_property and step.next is not None and not step.merged:
            assert step.in_tokens, f"{step.case} {step.before} {step.turn} {step.new}"
        for known in (None, step.before):
            found = renderer.extend(step.prompt, step.completion, step.new, step.tools, messages=known)
            if found.tokens is None:
                assert found.reason
                continue
            extended += 1
            assert found.reason == ""
            assert found.tokens[: len(sampled)] == sampled
            if step.in_tokens:
                assert found.tokens == step.next
            elif step.next is not None and not step.merged:
                same = (stretches(renderer.tokenizer, tokens).items for tokens in (found.tokens, step.next))
                assert next(same) == next(same)
            else:
                assert step.merged
    refuse_most = {"qwen3-thinking=False", "mistral_nemo-", "nemotron3-"}
    assert extended or any(word in name_of(key) + "-" for word in refuse_most)


@pytest.mark.parametrize("key", EVERY)
def test_what_can_be_extended_is(key: Key) -> None:
    """With the history at hand, a turn that came back whole is extended whenever the template allows it."""
    renderer = renderer_of(key)
    for step in steps(renderer, 1, seed=8):
        parsed, termination = renderer.parse_response(step.completion, prompt_tokens=step.prompt, tools=step.tools)
        try:
            written = renderer.render([*step.before, parsed], "last_assistant_message", step.tools, turns="split")
            following = renderer.build_generation_prompt([*step.before, parsed, *step.new], tools=step.tools).to_ints()
        except InputError:
            continue
        if written[-1].tokens.tolist() != step.sampled or following[: len(step.sampled)] != step.sampled:
            continue
        found = renderer.extend(step.prompt, step.completion, step.new, step.tools, messages=step.before)
        assert found.tokens == following, (step.case, step.turn, step.new, found.reason, termination)


def counterexamples() -> dict[str, Any]:
    return json.loads(COUNTEREXAMPLES.read_text(encoding="utf-8"))


def rewrites(renderer: Renderer, example: dict[str, Any]) -> bool:
    """Whether the prompt after `turn` does not start by saying what its prompt and the turn say."""
    messages = [*example["before"], example["turn"]]
    *_, (_, prompt, completion) = turns(renderer, messages, example["tools"])
    following = renderer.build_generation_prompt([*messages, *example["new"]], tools=example["tools"]).to_ints()
    items = [stretches(renderer.tokenizer, tokens).items for tokens in (following, prompt + completion)]
    return not starts_with(*items)


@pytest.mark.parametrize("key", EVERY)
def test_without_the_property_there_is_a_counterexample(key: Key) -> None:
    renderer = renderer_of(key)
    kept = counterexamples()
    if renderer.has_extension_property:
        assert name_of(key) not in kept
        return
    example = kept[name_of(key)]
    assert rewrites(renderer, example)
    *_, (_, prompt, completion) = turns(renderer, [*example["before"], example["turn"]], example["tools"])
    found = renderer.extend(prompt, completion, example["new"], example["tools"], messages=example["before"])
    assert found.tokens is None
    assert found.reason


CHAT: Key = ("tiny-chat", "qwen3_instruct", ())


def test_other_splits_of_the_same_text_are_kept() -> None:
    renderer = renderer_of(CHAT)
    prompt = renderer.build_generation_prompt([USER]).to_ints()
    stop = renderer.get_stop_sequences()
    spelled = [token for letter in "Hello there" for token in renderer.tokenizer.encode_text(letter)]
    assert spelled != renderer.tokenizer.encode_text("Hello there")
    found = renderer.extend(prompt, [*spelled, *stop], [AGAIN])
    assert found.tokens is not None
    assert found.tokens[: len(prompt) + len(spelled) + 1] == [*prompt, *spelled, *stop]
    full = renderer.build_generation_prompt([USER, {"role": "assistant", "content": "Hello there"}, AGAIN]).to_ints()
    tail = len(full) - len(prompt) - len(renderer.tokenizer.encode_text("Hello there"))
    assert found.tokens[-tail:] == full[-tail:]


@pytest.mark.parametrize(
    "key", [CHAT, ("tiny-headers", "llama3", ()), ("tiny-all", "kimi_k2", ()), ("tiny-spm", "role_colon", ())]
)
def test_a_cut_turn_is_closed(key: Key) -> None:  # fmt: skip
    renderer = renderer_of(key)
    prompt = renderer.build_generation_prompt([USER]).to_ints()
    text = " Hello the" if key[1] == "role_colon" else "Hello the"
    cut = renderer.tokenizer.encode_text(text, continuation=True)
    found = renderer.extend(prompt, cut, [AGAIN])
    full = renderer.build_generation_prompt([USER, {"role": "assistant", "content": "Hello the"}, AGAIN]).to_ints()
    assert found.tokens is not None
    assert found.tokens[: len(prompt) + len(cut)] == [*prompt, *cut]
    assert renderer.tokenizer.decode(found.tokens) == renderer.tokenizer.decode(full)
    if key[1] != "role_colon":
        assert found.tokens[len(prompt) + len(cut)] == renderer.get_stop_sequences()[0]


def test_reasons() -> None:
    renderer = renderer_of(("tiny-chat", "qwen3", ()))
    encode = renderer.tokenizer.encode
    prompt = renderer.build_generation_prompt([USER]).to_ints()
    thought = encode("<think>\nHm.\n</think>\n\nYes.<|im_end|>")
    assert "differently" in renderer.extend(prompt, thought, [AGAIN]).reason
    bare = encode("Yes.<|im_end|>")  # no think block, so there is nothing that the template would take out
    assert renderer.extend(prompt, bare, [AGAIN]).tokens is not None
    asked = encode(
        '<think>\nHm.\n</think>\n\n<tool_call>\n{"name": "look", "arguments": {"at": "1"}}\n</tool_call><|im_end|>'
    )
    first = renderer.extend(prompt, asked, [{"role": "tool", "content": "42"}])
    assert first.tokens is not None
    # Now the history has reasoning that a new question would take out, although this answer has none.
    assert "history" in renderer.extend(first.tokens, bare, [AGAIN]).reason
    assert "after its stop token" in renderer.extend(prompt, [*bare, 5], [AGAIN]).reason
    ended = encode("Yes.<|endoftext|>")
    assert "<|endoftext|>" in renderer_of(CHAT).extend(prompt, ended, [AGAIN]).reason
    late = [{"role": "system", "content": "Be brief."}, AGAIN]
    assert "rendered" in renderer_of(("tiny-chat", "qwen3_5", ())).extend(prompt, bare, late).reason
    deepseek = renderer_of(("tiny-all", "deepseek_v3", ()))
    said = deepseek.tokenizer.encode("Yes.<｜end▁of▁sentence｜>")
    assert deepseek.extend(deepseek.build_generation_prompt([USER]).to_ints(), said, late).tokens is None
    with pytest.raises(InputError):
        renderer.extend(prompt, bare, [])


def test_what_follows_may_depend_on_the_history() -> None:
    """DeepSeek opens its results once in a conversation: the prompt's tokens tell, or the caller."""
    renderer = renderer_of(("tiny-all", "deepseek_v3", ()))
    said = {"role": "assistant", "content": "Look."}
    result = {"role": "tool", "content": "42"}
    before = [USER, said, result]
    stop = renderer.get_stop_sequences()
    answer = [*renderer.tokenizer.encode_text("Look."), *stop]
    prompt = renderer.build_generation_prompt([USER]).to_ints()
    found = renderer.extend(prompt, answer, [result])
    assert found.tokens == renderer.build_generation_prompt(before).to_ints()
    second = renderer.extend(found.tokens, answer, [result])
    assert "history" in second.reason
    exact = renderer.extend(found.tokens, answer, [result], messages=before)
    assert exact.tokens == renderer.build_generation_prompt([*before, said, result]).to_ints()


# Families whose template keeps what is said in a loop of calls and results, reasoning with it where there is any.
ONE_SEQUENCE: list[Any] = [
    ("tiny-chat", "qwen3_instruct", ()),
    ("tiny-chat", "qwen2.5", ()),
    ("tiny-chat", "qwen3", ()),
    ("tiny-chat", "qwen3_5", ()),
    ("tiny-chat", "nemotron3", ()),
    ("tiny-chat", "chat_template", ()),
    ("tiny-headers", "llama3", ()),
    ("tiny-headers", "chat_template", ()),
    ("tiny-all", "glm4_5", ()),
    ("tiny-all", "kimi_k2", ()),
    ("tiny-all", "gpt_oss", (("current_date", "2025-06-01"),)),
]
THINKS = ("qwen3", "qwen3_5", "nemotron3", "glm4_5", "gpt_oss")


@pytest.mark.parametrize("key", [pytest.param(key, id=name_of(key)) for key in ONE_SEQUENCE])
def test_ten_turns_with_tools_are_one_sequence(key: Key) -> None:
    renderer = renderer_of(key)
    messages: list[dict[str, Any]] = [{"role": "system", "content": "Be brief."}, USER]
    prompt = renderer.build_generation_prompt(messages, tools=TOOLS).to_ints()
    rollout: list[tuple[list[int], list[int]]] = []
    for number in range(10):
        turn: dict[str, Any] = {"role": "assistant", "content": "", "tool_calls": [call(number)]}
        if key[1] in THINKS:
            turn["reasoning_content"] = f"Step {number}."
        *_, (_, own, completion) = turns(renderer, [*messages, turn], TOOLS)
        assert own == prompt
        rollout.append((prompt, completion))
        result = {"role": "tool", "content": f"{number}!", "tool_call_id": f"call{number:05d}", "name": "look"}
        found = renderer.extend(prompt, completion, [result], TOOLS)
        assert found.tokens is not None, found.reason
        messages += [turn, result]
        assert found.tokens == renderer.build_generation_prompt(messages, tools=TOOLS).to_ints()
        prompt = found.tokens
    ((tokens, weights),) = merge_rollout(rollout)
    assert tokens.tolist() == [*rollout[-1][0], *rollout[-1][1]]
    assert weights.sum() == sum(len(completion) for _, completion in rollout)
    position = 0
    for prompt_tokens, completion in rollout:
        assert not weights[position : len(prompt_tokens)].any()
        position = len(prompt_tokens) + len(completion)
        assert weights[len(prompt_tokens) : position].all()


def test_steps_that_do_not_go_on_begin_a_sequence() -> None:
    merged = merge_rollout([([1, 2], [3]), ([1, 2, 3], [4]), ([1, 9], [5]), ([1, 9, 5, 6], [7])])
    assert [tokens.tolist() for tokens, _ in merged] == [[1, 2, 3, 4], [1, 9, 5, 6, 7]]
    assert [weights.tolist() for _, weights in merged] == [[0, 0, 1, 1], [0, 0, 1, 0, 1]]
    assert merge_rollout([]) == []


def test_fixture_keys_have_names_of_their_own() -> None:
    assert len({name_of(key) for key in FIXTURE}) == len(FIXTURE)

"""`Plan` against an obvious reference: atoms in a list, one tokenizer call per stretch of text."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from renderers import InputError, Tokenizer, get_tokenizer
from renderers.plan import Plan
from renderers.tokenizer import ControlToken
from renderers.white_space import WHITE_SPACE

FOLDERS = ["tiny-chat", "tiny-headers", "tiny-spm"]


@dataclass
class Reference:
    """The same methods, one token list at a time."""

    tokenizer: Tokenizer
    atoms: list[tuple[str, object, float]] = field(default_factory=list)
    weight: float = 0.0

    def template(self, text: str) -> None:
        for part in self.tokenizer.split(text):
            self.atoms.append(("control" if isinstance(part, ControlToken) else "text", part, self.weight))

    def content(self, text: str) -> None:
        if text:
            self.atoms.append(("text", text, self.weight))

    def begin_body(self, weight: float) -> None:
        if weight:
            self.atoms.append(("cut", None, 0.0))
        self.weight = weight

    def end_body(self) -> None:
        # After a control token there is no stretch to cut: what the template writes next is as it would be untrained.
        if self.weight and self.atoms[-1][0] == "text":
            self.atoms.append(("cut", None, 0.0))
        self.weight = 0.0

    def encode(self) -> tuple[list[int], list[float]]:
        tokens: list[int] = []
        weights: list[float] = []
        stretch, stretch_weight, start, swallow = "", 0.0, True, False

        def close(strip_right: bool = False) -> None:
            nonlocal stretch, start, swallow
            text = stretch.lstrip(WHITE_SPACE) if swallow else stretch
            if strip_right:
                text = text.rstrip(WHITE_SPACE)
            if text:
                ids = self.tokenizer.encode_text(text, continuation=not start)
                tokens.extend(ids)
                weights.extend([stretch_weight] * len(ids))
                start = False
            if stretch:
                swallow = False
            stretch = ""

        for kind, value, weight in self.atoms:
            if kind == "text":
                if not stretch:
                    stretch_weight = weight
                stretch += str(value)
            elif kind == "cut":
                close()
                swallow = False
            else:
                assert isinstance(value, ControlToken)
                close(strip_right=value.lstrip)
                tokens.append(value.id)
                weights.append(weight)
                start, swallow = True, value.rstrip
        close()
        return tokens, weights


@pytest.fixture(scope="session")
def tokenizers(repository: Path) -> dict[str, Tokenizer]:
    return {name: get_tokenizer(repository / "fixtures" / name) for name in FOLDERS}


TEXT = st.text(alphabet="ab \n中é", max_size=6)


@pytest.mark.parametrize("name", FOLDERS)
@settings(derandomize=True, max_examples=120, deadline=None)
@given(data=st.data())
def test_plan_is_the_reference(tokenizers: dict[str, Tokenizer], name: str, data: st.DataObject) -> None:
    tokenizer = tokenizers[name]
    words = [word for word in tokenizer.control if "_" in word or "end" in word or "user" in word]
    template = st.lists(st.one_of(TEXT, st.sampled_from(words)), max_size=4).map("".join)
    plan, references = Plan(tokenizer), []
    for example in range(data.draw(st.integers(1, 3))):
        reference = Reference(tokenizer)
        references.append(reference)
        for message in range(data.draw(st.integers(0, 4))):
            plan.begin_message(message)
            header, body, end = data.draw(template), data.draw(TEXT), data.draw(template)
            weight = data.draw(st.sampled_from([0.0, 0.0, 1.0, 0.5]))
            for one in (plan, reference):
                one.template(header)
                one.begin_body(weight)
                one.content(body)
                one.template(end)
                one.end_body()
        plan.end_example(example, -1)
    block = plan.encode()
    assert len(block) == len(references)
    for example, reference in zip(block, references, strict=True):
        tokens, weights = reference.encode()
        assert example.tokens.tolist() == tokens
        assert example.weights.tolist() == weights


def test_messages_are_attributed_from_their_first_control_token_on(tokenizers: dict[str, Tokenizer]) -> None:
    plan = Plan(tokenizers["tiny-chat"])
    for message, text in enumerate(["Hi", "Hello there", ""]):
        plan.begin_message(message)
        plan.write(("<|im_start|>user\n", text, "<|im_end|>\n"))
    plan.end_example(0, -1)
    (example,) = plan.encode()
    control = tokenizers["tiny-chat"].control
    starts = [i for i, token in enumerate(example.tokens.tolist()) if token == control["<|im_start|>"].id]
    changes = [i for i, m in enumerate(example.message_index.tolist()) if i == 0 or m != example.message_index[i - 1]]
    assert starts == changes
    assert example.message_index[starts].tolist() == [0, 1, 2]


def test_reuse_copies_what_writing_again_would_give(tokenizers: dict[str, Tokenizer]) -> None:
    texts = ["Hi", "Hello", "More?", "Yes"]

    def write(plan: Plan, start: int, stop: int) -> None:
        for message in range(start, stop):
            plan.begin_message(message)
            plan.write(("<|im_start|>user\n", texts[message], "<|im_end|>\n"))

    again, copied = Plan(tokenizers["tiny-chat"]), Plan(tokenizers["tiny-chat"])
    for plan in (again, copied):
        write(plan, 0, 3)
        plan.end_example(0, 2)
    write(again, 0, 4)
    assert copied.reuse(2)
    write(copied, 2, 4)
    for plan in (again, copied):
        plan.end_example(0, 3)
    ours, theirs = copied.encode(), again.encode()
    assert ours.tokens.tolist() == theirs.tokens.tolist()
    assert [e.message_index.tolist() for e in ours] == [e.message_index.tolist() for e in theirs]
    assert not copied.reuse(9)


def test_rewind_forgets_a_refused_conversation(tokenizers: dict[str, Tokenizer]) -> None:
    plan = Plan(tokenizers["tiny-chat"], "reject")
    plan.write(("<|im_start|>", "kept", "<|im_end|>"))
    plan.end_example(0, -1)
    position = plan.position()
    plan.write(("<|im_start|>", "lost", ""))
    with pytest.raises(InputError, match="expected text without control tokens"):
        plan.content("x<|im_end|>")
    plan.rewind(position)
    plan.write(("<|im_start|>", "next", "<|im_end|>"))
    plan.end_example(2, -1)
    block = plan.encode()
    assert block.conversation.tolist() == [0, 2]
    texts = [tokenizers["tiny-chat"].decode(example.tokens.tolist()) for example in block]
    assert texts == ["<|im_start|>kept<|im_end|>", "<|im_start|>next<|im_end|>"]


def test_known_ids_are_kept(tokenizers: dict[str, Tokenizer]) -> None:
    tokenizer = tokenizers["tiny-chat"]
    odd = [tokenizer.encode_text(letter)[0] for letter in "Hello"]  # not how the tokenizer would write it
    plan = Plan(tokenizer)
    plan.template("<|im_start|>assistant\n")
    plan.ids(odd)
    plan.template("<|im_end|>")
    plan.end_example(0, -1)
    (example,) = plan.encode()
    assert example.tokens.tolist() == [
        *tokenizer.encode("<|im_start|>assistant\n"),
        *odd,
        *tokenizer.encode("<|im_end|>"),
    ]


def test_a_block_of_nothing(tokenizers: dict[str, Tokenizer]) -> None:
    block = Plan(tokenizers["tiny-chat"]).encode()
    assert len(block) == 0
    assert block.tokens.tolist() == []
    assert block.offsets.tolist() == [0]

"""Generated conversations for the benchmarks: seeded, multi-turn, English with Chinese and code, hardly ever repeating.

Word frequencies follow those of real chat data: 200 words make half of the text, 3,000 nearly nine tenths, and the
rest is a long tail. Text from a short list alone would flatter a tokenizer that remembers words; text of rare words
alone, one that does not.

    python benchmarks/conversations.py OUT.jsonl [--rows 4500] [--seed 1]
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from itertools import accumulate
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from fixtures.words import ADJECTIVES, ADVERBS, NOUNS, VERBS, inflect_noun, inflect_verb

_COMMON = """
    the of and a to in is that it for was on as with be by at this are from or have an but not you which we can has were
    all their there one will more when if who no out so up what about into than them then some could would make like
    time just know take year your good people other over think also back after use how our work first well way even new
    want because any these give day most find long down should call world still try last ask need feel three state never
    become between high really something another small number part place case week system program question during live
    point believe today bring happen next without before large must home under water room write money story fact month
    different lot right study book job word though issue side kind head house friend power hour line end name
"""
_PIECES = "ba ce di fo gu ha in jo ka le mi no pa qui ra se ti un ver wo yel zan str con pre tion al er is ous"
_HAN = (
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得于着下自之年过发后作里用道行所然家种事成方多经么去法学如都同现"
    "当没动面起看定天分还进好小部其些主样理心她本前开但因只从想实日军者意无力它与长把机十民第公此已工使情明性知全三又关点正业外将两高间由问很最"
    "重并物手应战向头文体政美相见被利什二等产或新己制身果加西斯月话合回特代内信表化老给世位次度门任常先海通教儿原东声提立及比员解水名真论处走义"
)
TOPICS = ("english",) * 6 + ("chinese",) * 2 + ("code",) * 2
MIN_PAIRS, MAX_PAIRS = 2, 10
TAIL_WORDS, TAIL_HAN = 30_000, 1_500
# Share of the running text that comes from the common words, from inflected dictionary words, and from the tail.
SHARES = (0.46, 0.43, 0.11)


class _Bag:
    """Things drawn by rank, by Zipf's law: the thing at rank r with weight 1 / (r + `flat`)."""

    def __init__(self, groups: list[list[str]], shares: tuple[float, ...], flat: float) -> None:
        self.things = [thing for group in groups for thing in group]
        weights: list[float] = []
        for group, share in zip(groups, shares, strict=True):
            raw = [1 / (rank + flat) for rank in range(len(group))]
            weights += [share * weight / sum(raw) for weight in raw]
        self.cumulative = list(accumulate(weights))

    def draw(self, rng: random.Random, count: int) -> list[str]:
        return rng.choices(self.things, cum_weights=self.cumulative, k=count)


class _Writer:
    """Draws prose, Chinese and code from one generator."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        # The vocabulary is the same for every seed; only what is drawn from it differs.
        fixed = random.Random(0)
        pieces = _PIECES.split()
        tail = sorted({"".join(fixed.choices(pieces, k=fixed.randint(2, 4))) for _ in range(TAIL_WORDS)})
        fixed.shuffle(tail)
        known = _dictionary()
        fixed.shuffle(known)
        self.words = _Bag([_COMMON.split(), known, tail], SHARES, flat=10)
        rare = [chr(code) for code in range(0x4E00, 0x9000) if chr(code) not in _HAN]
        self.han = _Bag([list(_HAN), fixed.sample(rare, TAIL_HAN)], (0.93, 0.07), flat=30)

    def length(self, median: float) -> int:
        """Log-normal, at least 3."""
        return max(3, int(self.rng.lognormvariate(0.0, 0.7) * median))

    def english(self, num_words: int) -> str:
        words, parts, start = self.words.draw(self.rng, num_words), list[str](), 0
        while start < num_words:
            stop = start + self.rng.randint(6, 18)
            clause = words[start:stop]
            clause[0] = clause[0].capitalize()
            if self.rng.random() < 0.15:
                clause.append(str(self.rng.randrange(10**4)))
            parts.append(" ".join(clause) + self.rng.choice((". ", ". ", ", ", "? ", "; ", ".\n", ".\n\n")))
            start = stop
        return "".join(parts).strip()

    def chinese(self, num_words: int) -> str:
        parts: list[str] = []
        for _ in range(max(1, num_words // 7)):
            parts += self.han.draw(self.rng, self.rng.randint(4, 16))
            parts.append(self.rng.choice(("，", "。", "，", "。\n", "？", "：", "、")))
        return "".join(parts).strip()

    def code(self, num_words: int) -> str:
        lines = ["```python"]
        for _ in range(max(2, num_words // 6)):
            first, second, third = self.words.draw(self.rng, 3)
            number = self.rng.randrange(1000)
            forms = (
                f"def {first}_{second}({third}: int, {second}=None) -> list[{first.capitalize()}]:",
                f"{first}_{second} = [{third}.{first}({number}) for {third} in self._{second}s]",
                f"if {first}.{second} is not None and len({third}) > {number}:  # {second} {third}",
                f'raise ValueError(f"{first}: expected {{{second}!r}}, got {number}")',
                f"return {{'{first}': {second}[{number}], \"{third}\": {number / 8}}}",
                f"for {first}, {second} in zip({third}, range({number}), strict=True):",
            )
            lines.append("    " * self.rng.randrange(3) + self.rng.choice(forms))
        return "\n".join([*lines, "```"])

    def messages(self) -> list[dict[str, str]]:
        """One conversation: a system message in every fourth, then pairs of user and assistant."""
        topic = self.rng.choice(TOPICS)
        prose = self.chinese if topic == "chinese" else self.english
        messages: list[dict[str, str]] = []
        if self.rng.random() < 0.25:
            messages.append({"role": "system", "content": prose(self.length(20))})
        for _ in range(self.rng.randint(MIN_PAIRS, MAX_PAIRS)):
            messages.append({"role": "user", "content": prose(self.length(23))})
            if topic == "code":
                answer = f"{self.english(self.length(20))}\n\n{self.code(self.length(32))}"
            else:
                answer = prose(self.length(64))
            messages.append({"role": "assistant", "content": answer})
        return messages


def write_conversations(path: Path | str, num_conversations: int, seed: int) -> None:
    """Write `num_conversations` OpenAI-style rows to `path`, the same bytes for the same arguments.

    2 to 10 pairs a row, lengths log-normal, about 1,100 tokens a row with a vocabulary of 150k; no control tokens and
    no reasoning in the text.
    """
    writer = _Writer(seed)
    rows = ({"messages": writer.messages()} for _ in range(num_conversations))
    with Path(path).open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _dictionary() -> list[str]:
    """Words of the lists with their regular forms, each once."""
    words = dict.fromkeys([*NOUNS, *VERBS, *ADJECTIVES, *ADVERBS])
    words |= dict.fromkeys(inflect_noun(noun) for noun in NOUNS)
    words |= dict.fromkeys(inflect_verb(verb, ending) for verb in VERBS for ending in ("s", "ed", "ing"))
    return [word for word in words if word.isalpha()]


def main() -> None:
    parser = argparse.ArgumentParser(description="Write generated conversations as JSONL.")
    parser.add_argument("out", type=Path)
    parser.add_argument("--rows", type=int, default=4500)
    parser.add_argument("--seed", type=int, default=1)
    arguments = parser.parse_args()
    write_conversations(arguments.out, arguments.rows, arguments.seed)


if __name__ == "__main__":
    main()

"""Our tokens against those of `apply_chat_template`, conversation by conversation.

Used by the tests with few conversations and by `benchmarks/parity.py` with many.
"""

from __future__ import annotations

import itertools
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from renderers import ChatTemplate, Family, RefusedError, Renderer, Tokenizer, get_renderer, get_tokenizer
from tests.renderers.parity_cases import Case, conversations

__all__ = [
    "KNOWN_LOADING_DIFFERENCES",
    "Oracle",
    "Score",
    "chat_template_renderer",
    "compare",
    "family_renderers",
    "option_grid",
    "template_files",
]

KNOWN_LOADING_DIFFERENCES = {
    "qwen3.5": "transformers replaces the pre-tokenizer of tokenizer.json by Qwen2's, because tokenizer_config.json "
    "names Qwen2Tokenizer; compared with PreTrainedTokenizerFast(tokenizer_file=...), which keeps the file's own",
}
Messages = Sequence[Mapping[str, Any]]


class Oracle:
    """transformers with one tokenizer folder and one template.

    Args:
        folder: with tokenizer.json.
        template: Jinja source.
        variables: what the template is given besides messages and tools.
    """

    _loaded: dict[Path, Any] = {}  # noqa: RUF012  (a cache for the whole run)

    def __init__(self, folder: Path, template: str, variables: Mapping[str, Any] | None = None) -> None:
        self.tokenizer = self._load(folder)
        self.template = template
        self.variables = dict(variables or {})

    @classmethod
    def _load(cls, folder: Path) -> Any:
        if folder not in cls._loaded:
            import transformers

            transformers.logging.set_verbosity_error()
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder))
                if folder.name in KNOWN_LOADING_DIFFERENCES:
                    special = {k: v for k, v in tokenizer.special_tokens_map.items() if isinstance(v, str)}
                    path = str(folder / "tokenizer.json")
                    tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=path, **special)
            cls._loaded[folder] = tokenizer
        return cls._loaded[folder]

    def text(self, messages: Messages, tools: Any, *, generation: bool) -> str | None:
        """The template's text; None when it raises."""
        return self._apply(messages, tools, generation=generation, tokenize=False)

    def ids(self, messages: Messages, tools: Any, *, generation: bool) -> list[int] | None:
        """The template's tokens; None when it raises."""
        return self._apply(messages, tools, generation=generation, tokenize=True)

    def _apply(self, messages: Messages, tools: Any, *, generation: bool, tokenize: bool) -> Any:
        options: dict[str, Any] = {"return_dict": False} if tokenize else {}
        try:
            applied = self.tokenizer.apply_chat_template(
                [messages],  # as a batch of one, since an empty list alone is taken for an empty batch
                tools=tools,
                chat_template=self.template,
                add_generation_prompt=generation,
                tokenize=tokenize,
                **options,
                **self.variables,
            )
            return applied[0]
        except Exception:  # whatever a template raises, or its code meeting data that it does not expect
            return None

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def decode(self, tokens: Sequence[int]) -> str:
        return self.tokenizer.decode(tokens, skip_special_tokens=False, clean_up_tokenization_spaces=False)


@dataclass
class Score:
    """What one comparison found.

    Attributes:
        counts: `prompts`, `conversations`, `turns` compared; `refused` by both; `conflicts`: turns that the template
            writes unlike its own prompt, refused by us.
        mismatches: a description each.
        conflict: our words for the first conflict.
    """

    counts: Counter[str] = field(default_factory=Counter[str])
    mismatches: list[str] = field(default_factory=list[str])
    conflict: str = ""

    def add(self, other: Score) -> None:
        self.counts += other.counts
        self.mismatches += other.mismatches
        self.conflict = self.conflict or other.conflict


def compare(renderer: Renderer, oracle: Oracle, case: str, count: int, seed: int = 0) -> Score:
    """Compare `count` conversations of one kind: prompt, whole conversation, and turn by turn."""
    score = Score()
    for messages, tools in conversations(case, count, seed):
        _compare_prompts(score, renderer, oracle, (messages, tools))
        _compare_whole(score, renderer, oracle, (messages, tools))
        _compare_turns(score, renderer, oracle, (messages, tools))
    return score


def _policy(oracle: Oracle, messages: Messages, tools: Any) -> str:
    """Text stays text here, always; where control tokens are typed, transformers makes them live, so we do too."""
    return "parse" if any(token in repr((messages, tools)) for token in oracle.tokenizer.get_added_vocab()) else "text"


def seen_by_template(renderer: Renderer, messages: Messages) -> list[dict[str, Any]]:
    """The messages as documented for templates: thinking parts as reasoning, parts joined for templates without parts,
    arguments as JSON text for templates that take nothing else."""
    import json

    seen: list[dict[str, Any]] = []
    for message in messages:
        copy = dict(message)
        if isinstance(copy.get("content"), list):
            thoughts = [part["thinking"] for part in copy["content"] if part["type"] == "thinking"]
            others = [part for part in copy["content"] if part["type"] != "thinking"]
            copy["content"] = others if renderer.takes_parts else "".join(part["text"] for part in others)
            if thoughts and "reasoning_content" not in copy:
                copy["reasoning_content"] = "".join(thoughts)
        if renderer.arguments_as_text and "tool_calls" in copy:
            copy["tool_calls"] = [
                {**call, "function": {**call["function"], "arguments": arguments}}
                for call in copy["tool_calls"]
                for given in [call["function"]["arguments"]]
                for arguments in [given if isinstance(given, str) else json.dumps(given, ensure_ascii=False)]
            ]
        seen.append(copy)
    return seen


def _compare_prompts(score: Score, renderer: Renderer, oracle: Oracle, case: Case) -> None:
    messages, tools = case
    ends = {len(messages), *(i for i, message in enumerate(messages) if message["role"] == "assistant" and i)}
    for end in sorted(ends):
        part = messages[:end]
        expected = oracle.ids(seen_by_template(renderer, part), tools, generation=True)
        try:
            policy: Any = _policy(oracle, part, tools)
            got = renderer.build_generation_prompt(part, tools=tools, control_tokens=policy).to_ints()
        except RefusedError:
            got = None
        _score(score, "prompts", oracle, (part, tools), expected, got)


def _compare_whole(score: Score, renderer: Renderer, oracle: Oracle, case: Case) -> None:
    messages, tools = case
    expected = oracle.ids(seen_by_template(renderer, messages), tools, generation=False)
    try:
        policy: Any = _policy(oracle, messages, tools)
        examples = renderer.render(messages, "all_tokens", tools, turns="single", control_tokens=policy)
        got = examples[0].tokens.tolist()
    except RefusedError:
        got = None
    _score(score, "conversations", oracle, case, expected, got)


def _score(
    score: Score, kind: str, oracle: Oracle, case: Case, expected: list[int] | None, got: list[int] | None
) -> None:
    score.counts[kind] += 1
    score.counts["refused"] += expected is None and got is None
    if expected != got:
        shown = ["(refused)" if ids is None else repr(oracle.decode(ids)) for ids in (expected, got)]
        note = " (same text, other ids)" if expected and got and shown[0] == shown[1] else ""
        score.mismatches.append(f"{kind}{note}\n  case     {case!r}\n  template {shown[0]}\n  ours     {shown[1]}")


def _compare_turns(score: Score, renderer: Renderer, oracle: Oracle, case: Case) -> None:
    messages, tools = case
    policy: Any = _policy(oracle, messages, tools)
    settings = {"turns": "split", "control_tokens": policy}
    for i, message in enumerate(messages):
        if message["role"] != "assistant":
            continue
        score.counts["turns"] += 1
        part = messages[: i + 1]
        expected, reason = _own_turn(renderer, oracle, part, tools)
        try:
            examples = renderer.render(part, "last_assistant_message", tools, **settings)
        except RefusedError as error:
            if expected is None:
                score.counts["conflicts" if reason == "conflict" else "refused"] += 1
                if reason == "conflict":
                    score.conflict = score.conflict or error.detail
            else:
                score.mismatches.append(f"turn refused: {error}\n  case     {(part, tools)!r}\n  template {expected!r}")
            continue
        if expected is None:
            score.mismatches.append(f"turn not refused ({reason})\n  case     {(part, tools)!r}")
            continue
        fault = _turn_fault(renderer, oracle, examples, part, tools, expected, policy)
        if fault:
            score.mismatches.append(f"turn: {fault}\n  case     {(part, tools)!r}\n  template {expected!r}")


def _own_turn(
    renderer: Renderer, oracle: Oracle, part: list[dict[str, Any]], tools: Any
) -> tuple[tuple[str, str] | None, str]:
    """Prompt and own text of the last message by the template, or why there is none."""
    seen = seen_by_template(renderer, part)
    prompt = oracle.text(seen[:-1], tools, generation=True)
    text = oracle.text(seen, tools, generation=False)
    if prompt is None or text is None:
        return None, "template refused"
    if not text.startswith(prompt):
        return None, "conflict"
    return (prompt, text[len(prompt) :]), ""


def _turn_fault(
    renderer: Renderer,
    oracle: Oracle,
    examples: list[Any],
    part: list[dict[str, Any]],
    tools: Any,
    expected: tuple[str, str],
    policy: Any,
) -> str | None:
    if len(examples) != 1:
        return f"{len(examples)} examples"
    tokens, weights = examples[0].tokens.tolist(), examples[0].weights.tolist()
    start = weights.index(1.0) if 1.0 in weights else len(weights)
    if set(weights[:start]) - {0.0} or set(weights[start:]) - {1.0}:
        return f"weights are not zeros, then ones: {weights}"
    if len(part) > 1:
        prompt = renderer.build_generation_prompt(part[:-1], tools=tools, control_tokens=policy).to_ints()
        if tokens[:start] != prompt:
            return f"what comes before the turn is not its prompt: {oracle.decode(tokens[:start])!r}"
    stops = [stop if isinstance(stop, str) else oracle.decode([stop]) for stop in renderer.get_stop_sequences()]
    prompt_text, own = expected
    ends = [k + len(stop) for stop in stops for k in range(len(own)) if own.startswith(stop, k)]
    ends = sorted(end for end in ends if not _without(own[end:], stops).strip())
    # The turn ends with the first stop token; typed ones that are live cannot be told from the template's.
    wanted = [own[:end] for end in ends[: len(ends) if policy == "parse" else 1]]
    if not wanted or policy == "parse":
        # One that the next role's token ends shows none in the template as long as nothing follows.
        wanted += [own, *(own + stop for stop in stops)]
    shown = oracle.decode(tokens)
    # Either way of reading: as one text, or, where a control token swallows the white space after it, as the prompt's
    # tokens and what was sampled after them.
    read = [oracle.decode(oracle.encode(prompt_text + text)) for text in wanted]
    spaces = ("", " ") if renderer.tokenizer.has_prefix_space else ("",)
    sampled = [*wanted, *(oracle.decode(oracle.encode(text)) for text in wanted)]
    read += [oracle.decode(tokens[:start]) + space + text for text in sampled for space in spaces]
    if shown not in read:
        return f"the turn is {oracle.decode(tokens[start:])!r}, not one of {wanted!r}"
    return None


def _without(text: str, words: Sequence[str]) -> str:
    for word in words:
        text = text.replace(word, "")
    return text


# -- what there is to compare


def template_files(folder: Path) -> list[Path]:
    """The chat templates in a tokenizer folder."""
    return sorted(folder.glob("chat_template*.jinja"))


def tokenizer_with(folder: Path, template: Path) -> Tokenizer:
    """The folder's tokenizer with one of its templates."""
    tokenizer = get_tokenizer(folder)
    tokenizer.chat_template = template.read_text(encoding="utf-8")
    return tokenizer


def option_grid(family: type[Family], fixed: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The defaults, every other value of each option alone, and all pairs of switches."""
    values: dict[str, list[Any]] = {}
    for name, option in family.OPTIONS.items():
        if name in fixed:
            continue
        if option.variable is None:  # the template knows nothing of it, so there is nothing to compare with
            continue
        if option.type is list:
            values[name] = [option.default, *([choice] for choice in option.choices), list(option.choices)]
        elif option.choices:
            values[name] = [option.default, *(choice for choice in option.choices if choice != option.default)]
        elif option.type is bool:
            values[name] = [option.default, not option.default]
        elif option.type is str and option.variable is not None:
            values[name] = [option.default, "Ünï 7"]
    switches = [name for name, known in values.items() if len(known) > 1]
    seen: set[str] = set()
    for names in ((), *itertools.combinations(switches, 1), *itertools.combinations(switches, 2)):
        for chosen in itertools.product(*(values[name][1:] for name in names)):
            options = {**fixed, **dict(zip(names, chosen, strict=True))}
            key = repr(sorted(options.items()))
            if key not in seen:
                seen.add(key)
                yield options


def family_renderers(folder: Path, template: Path) -> Iterator[tuple[Renderer, Oracle]]:
    """The family that claims this template, with every option, each beside transformers; nothing if none does."""
    tokenizer = tokenizer_with(folder, template)
    renderer = get_renderer("auto", tokenizer)
    if not isinstance(renderer, Family):
        return
    assert renderer.template_hash
    fixed = renderer.templates[renderer.template_hash]
    for options in option_grid(type(renderer), fixed):
        own = type(renderer)(tokenizer, **options)
        own.template_hash = renderer.template_hash
        yield own, Oracle(folder, template.read_text(encoding="utf-8"), own.template_variables())


def chat_template_renderer(folder: Path, template: Path) -> tuple[ChatTemplate, Oracle]:
    """The path that runs the template itself."""
    source = template.read_text(encoding="utf-8")
    return ChatTemplate(tokenizer_with(folder, template)), Oracle(folder, source)

"""Our prompts, examples and weights beside tinker-cookbook's, on the fuzz grid; writes `docs/cookbook-compat.md`.

    python benchmarks/peers/environments.py cookbook      # once: its environment
    DATUMLOOM_REAL_DATA=… python benchmarks/cookbook_parity.py [--count N] [--only NAME …] [--write]

The exit status is 1 when there is a difference without a known reason.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from cookbook_reasons import REASONS, VERDICTS, Difference, reason_of  # noqa: E402
from peers.environments import python_of  # noqa: E402
from section import join, table  # noqa: E402

from renderers import InputError, Renderer, TrainOnWhat, get_renderer, get_tokenizer  # noqa: E402
from tests.renderers.parity_cases import CASES, conversations  # noqa: E402

DOCUMENT = ROOT / "docs" / "cookbook-compat.md"
MODES = tuple(mode.value for mode in TrainOnWhat)
COUNT = 10
Example = tuple[list[int], list[float]]


@dataclass(frozen=True)
class Pair:
    """A renderer of the cookbook and ours, with one tokenizer folder and one of its templates."""

    theirs: str
    ours: str
    folder: str
    template: str = "chat_template.jinja"


PAIRS = (
    Pair("qwen3", "qwen3", "qwen3"),
    Pair("qwen3_disable_thinking", "qwen3_disable_thinking", "qwen3"),
    Pair("qwen3_instruct", "qwen3_instruct", "qwen3", "chat_template_instruct_2507.jinja"),
    Pair("qwen3_5", "qwen3_5", "qwen3.5"),
    Pair("qwen3_5_disable_thinking", "qwen3_5_disable_thinking", "qwen3.5"),
    Pair("nemotron3", "nemotron3", "nemotron3"),
    Pair("nemotron3_disable_thinking", "nemotron3_disable_thinking", "nemotron3"),
    Pair("nemotron3_preserve_thinking", "nemotron3_preserve_thinking", "nemotron3"),
    Pair("llama3", "llama3", "llama3.1"),
    Pair("llama3", "llama3.0", "llama3.1"),
    Pair("deepseekv3", "deepseekv3", "deepseek-v3"),
    Pair("kimi_k2", "kimi_k2", "kimi-k2"),
    Pair("gpt_oss_no_sysprompt", "gpt_oss_no_sysprompt", "gpt-oss"),
    Pair("gpt_oss_low_reasoning", "gpt_oss_low_reasoning", "gpt-oss"),
    Pair("gpt_oss_medium_reasoning", "gpt_oss_medium_reasoning", "gpt-oss"),
    Pair("gpt_oss_high_reasoning", "gpt_oss_high_reasoning", "gpt-oss"),
    Pair("role_colon", "role_colon", "llama3.1"),
)


@dataclass
class Score:
    """Verdicts by what was compared (`prompt` or a mode), and how often each reason for a difference was found."""

    verdicts: defaultdict[str, Counter[str]] = field(default_factory=lambda: defaultdict(Counter))
    reasons: Counter[str] = field(default_factory=Counter)
    unknown: list[str] = field(default_factory=list)

    def add(self, what: str, verdict: str, reason: str = "", shown: str = "") -> None:
        self.verdicts[what][verdict] += 1
        if reason:
            self.reasons[reason] += 1
            if reason == "unknown":
                self.unknown.append(f"{what}: {shown}")


def jobs(count: int) -> Iterator[dict[str, Any]]:
    """The grid, with a seeded choice of trained messages for `customized`."""
    rng = random.Random(11)
    for case in CASES:
        for messages, tools in conversations(case, count, seed=2):
            yield {
                "case": case,
                "messages": messages,
                "tools": tools,
                "trainable": [rng.random() < 0.5 for _ in messages],
            }


def theirs(pair: Pair, folder: Path, grid: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """What the cookbook makes of the grid, in its own environment."""
    with tempfile.TemporaryDirectory() as name:
        given, results = Path(name) / "jobs.json", Path(name) / "results.jsonl"
        wanted = {"renderer": pair.theirs, "folder": str(folder), "modes": MODES, "conversations": grid}
        given.write_text(json.dumps(wanted), encoding="utf-8")
        script = str(Path(__file__).parent / "peers" / "cookbook_examples.py")
        environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": ""}
        subprocess.run([str(python_of("cookbook")), script, str(given), str(results)], check=True, env=environment)
        return [json.loads(line) for line in results.read_text(encoding="utf-8").splitlines()]


def compare(pair: Pair, home: Path, grid: list[dict[str, Any]]) -> Score:
    """One pair over the whole grid."""
    folder = home / pair.folder
    tokenizer = get_tokenizer(folder)
    tokenizer.chat_template = (folder / pair.template).read_text(encoding="utf-8")
    renderer = get_renderer(pair.ours, tokenizer)
    score = Score()
    for job, result in zip(grid, theirs(pair, folder, grid), strict=True):
        whole = attempt(lambda job=job: examples(renderer, job["messages"], "all_tokens", job["tools"])[0][0])
        _compare_prompt(score, renderer, pair, job, result["prompt"])
        for mode in MODES:
            _compare_mode(score, renderer, pair, job, result[mode], mode, whole)
    return score


def attempt(render: Any) -> Any:
    """What it gives, or the stable code of its refusal."""
    try:
        return render()
    except InputError as error:
        return error.reason


def examples(renderer: Renderer, messages: Sequence[Any], mode: str, tools: Any) -> list[Example]:
    # The cookbook gives one sequence; where it means the turn that sampling would produce, so do we.
    turns: Any = "auto" if mode.startswith("last_") else "single"
    found = renderer.render(messages, mode, tools, turns=turns)
    return [(example.tokens.tolist(), example.weights.tolist()) for example in found]


def _compare_prompt(score: Score, renderer: Renderer, pair: Pair, job: dict[str, Any], their: Any) -> None:
    messages = job["messages"]
    end = max((i for i, message in enumerate(messages) if message["role"] == "assistant"), default=len(messages))
    if not end:
        return  # nobody has spoken yet
    ours = attempt(lambda: renderer.build_generation_prompt(messages[:end], tools=job["tools"]).to_ints())
    if isinstance(ours, str) or isinstance(their, str):
        score.add(
            "prompt", _failure(ours, their), f"{ours}" if isinstance(ours, str) and not isinstance(their, str) else ""
        )
    elif ours == their:
        score.add("prompt", "equal")
    else:
        _differs(score, "prompt", renderer, pair, {**job, "messages": messages[:end]}, ours, their)


def _compare_mode(
    score: Score, renderer: Renderer, pair: Pair, job: dict[str, Any], their: Any, mode: str, whole: Any
) -> None:
    messages = job["messages"]
    if mode == "customized":
        messages = [{**m, "trainable": chosen} for m, chosen in zip(messages, job["trainable"], strict=True)]
    ours = attempt(lambda: examples(renderer, messages, mode, job["tools"]))
    if isinstance(ours, str) or isinstance(their, str):
        score.add(
            mode, _failure(ours, their), f"{ours}" if isinstance(ours, str) and not isinstance(their, str) else ""
        )
        return
    if len(ours) > 1:
        score.add(mode, "differs", "splits")
        return
    own, other = trimmed(*ours[0]) if ours else ([], []), trimmed(*their)
    if own == other:
        score.add(mode, "equal")
    elif isinstance(whole, list) and whole[: len(their[0])] == their[0]:
        # The cookbook's text is the template's: only who is trained, or where the turn ends, can differ.
        _agreed_but_differs(score, mode, renderer, pair, job, (own, other))
    else:
        theirs_whole = their[0]
        _differs(score, mode, renderer, pair, job, whole if isinstance(whole, list) else own[0], theirs_whole)


def trimmed(tokens: list[int], weights: list[float]) -> Example:
    """Up to the last trained token: what follows has no loss and nothing attends to it that has."""
    end = max((i for i, weight in enumerate(weights) if weight), default=-1) + 1
    return tokens[:end], weights[:end]


def _failure(ours: Any, their: Any) -> str:
    if isinstance(ours, str):
        return "both refuse" if isinstance(their, str) else "ours refuses"
    return "theirs raises"


def _differs(
    score: Score, what: str, renderer: Renderer, pair: Pair, job: dict[str, Any], ours: list[int], their: list[int]
) -> None:
    decode = renderer.tokenizer.decode
    found = Difference(
        pair.theirs, pair.ours, what, job["messages"], job["tools"], decode(ours), decode(their), renderer
    )
    score.add(what, "differs", reason_of(found), found.shown)


def _agreed_but_differs(
    score: Score, mode: str, renderer: Renderer, pair: Pair, job: dict[str, Any], both: tuple[Example, Example]
) -> None:
    (own, _), (other, _) = both
    messages = job["messages"]
    if mode == "last_assistant_turn" and messages[-1]["role"] != "assistant":
        reason = "produced turn"
    elif mode in ("all_messages", "all_user_and_system_messages") and _trains_its_block(pair, job, both):
        reason = "block is no message"
    else:
        reason = "unknown"
    decode = renderer.tokenizer.decode
    text = f"{[m['role'] for m in messages]}\n    ours {decode(own)[-200:]!r}\n    theirs {decode(other)[-200:]!r}"
    score.add(mode, "differs though agreed", reason, text)


def _trains_its_block(pair: Pair, job: dict[str, Any], both: tuple[Example, Example]) -> bool:
    """Whether the only difference is a trained block in front, which the cookbook makes a system message of."""
    (own, own_weights), (other, other_weights) = both
    has_block = bool(job["tools"]) or pair.theirs.startswith(("gpt_oss", "nemotron3"))
    unlike = [i for i, (ours, theirs) in enumerate(zip(own_weights, other_weights, strict=False)) if ours != theirs]
    first = next((i for i, weight in enumerate(own_weights) if weight), len(own))
    return has_block and own == other and bool(unlike) and unlike[-1] < first


def report(scores: dict[Pair, Score], count: int, versions: str) -> str:
    """The document."""
    intro = (
        "# Compatibility with tinker-cookbook\n\n"
        "Written by `benchmarks/cookbook_parity.py`: the cookbook's `build_generation_prompt` and "
        "`build_supervised_example` (seven modes) in its own environment, beside ours under the same name, "
        f"{count} conversations of each of the {len(CASES)} kinds of the fuzz grid. {versions}\n\n"
        "Ours follows the model's chat template, token for token. Examples count as equal when tokens and weights are, "
        "up to the last trained token; the cookbook goes on with untrained messages, ours stops there. Where the "
        "cookbook's tokens are the template's, modes and weights are equal but for the reasons named under `though "
        "agreed`."
    )
    meanings = table(("verdict", "meaning"), VERDICTS.items())
    parts = [intro, meanings]
    for pair, score in scores.items():
        title = f"## {pair.theirs}" + (f" and our {pair.ours}" if pair.ours != pair.theirs else "")
        columns = [verdict for verdict in VERDICTS if any(verdict in found for found in score.verdicts.values())]
        lines = [(what, *(str(found[verdict]) for verdict in columns)) for what, found in score.verdicts.items()]
        reasons = [f"- {number} times: {REASONS[reason]}" for reason, number in score.reasons.most_common()]
        parts += [
            f"{title}\n\nTokenizer and template: `{pair.folder}`.",
            table(("", *columns), lines),
            "\n".join(reasons),
        ]
    return join(*parts) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--count", type=int, default=COUNT, help="conversations of each kind")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME", help="the cookbook's names")
    parser.add_argument("--write", action="store_true", help=f"write {DOCUMENT.relative_to(ROOT)}")
    arguments = parser.parse_args()
    home = Path(os.environ["DATUMLOOM_REAL_DATA"]) / "tokenizers"
    grid = list(jobs(arguments.count))
    scores: dict[Pair, Score] = {}
    for pair in PAIRS:
        if not arguments.only or pair.theirs in arguments.only:
            scores[pair] = compare(pair, home, grid)
            for text in scores[pair].unknown[:6]:
                print(f"{pair.theirs}: {text}", file=sys.stderr)
            print(pair.theirs, pair.ours, dict(scores[pair].reasons), len(scores[pair].unknown), file=sys.stderr)
    text = report(scores, arguments.count, versions())
    if arguments.write:
        DOCUMENT.write_text(text, encoding="utf-8")
    else:
        print(text)
    sys.exit(1 if any(score.unknown for score in scores.values()) else 0)


def versions() -> str:
    command = (
        "from importlib.metadata import version as v; "
        "print(', '.join(f'{n} {v(n)}' for n in ('tinker-cookbook', 'transformers', 'tokenizers')))"
    )
    done = subprocess.run([str(python_of("cookbook")), "-c", command], check=True, capture_output=True, text=True)
    return f"Versions there: {done.stdout.strip()}."


if __name__ == "__main__":
    main()

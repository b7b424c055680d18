"""Sampling speed on one CPU thread: ours and transformers' `generate`, in one run.

    python benchmarks/sample.py [--dtypes float32 bfloat16] [--repeats 3] [--json FILE] [--write]

The model is a random Qwen3 of about 40 M matrix parameters. Cases: greedy and sampled decode of 16 equal rows; rows
whose output lengths are log-normal, where `generate` runs each static batch to its longest; 8 samples of one long
prompt. Nothing is kept between repeats (no prefix cache). Variants take turns; time is process CPU time, so that a busy
machine changes the numbers little; every ratio is between the bests of this very run. Ours also returns a logprob for
every token; `generate` does not. In float32 the greedy tokens of both are compared before any timing.

`--write` puts the tables into `benchmarks/RESULTS.md`.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from bars import Verdict
from machine import describe
from section import join, replace_section, table, verdicts
from train import make_model

from trainer.engine import BaseModel
from trainer.protocol import SamplingParams
from trainer.sampler import Sampler

BATCH, PROMPT, NEW = 16, 64, 64
LONG_PROMPT, SAMPLES = 1024, 8
BARS = {"greedy": 1.5, "sampled": 2.2, "mixed lengths": 2.5, "shared prompt": 4.0}
WORDS = {
    "greedy": f"greedy, {BATCH} rows, prompt {PROMPT}, {NEW} new",
    "sampled": f"temperature 1, {BATCH} rows, prompt {PROMPT}, {NEW} new",
    "mixed lengths": f"temperature 1, {2 * BATCH} requests of log-normal output length, static batches of {BATCH}",
    "shared prompt": f"temperature 1, {SAMPLES} samples of one prompt of {LONG_PROMPT}, {NEW} new",
}


@dataclass
class Case:
    """`tokens` useful new tokens, made by either side."""

    name: str
    tokens: int
    ours: Callable[[], list[list[int]]]
    theirs: Callable[[], list[list[int]]]


def _prompts(count: int, length: int, seed: int) -> list[list[int]]:
    return np.random.default_rng(seed).integers(3, 32_000, (count, length)).tolist()


def _output_lengths(count: int) -> list[int]:
    return np.clip(np.exp(np.random.default_rng(7).normal(3.2, 1.0, count)), 4, 256).astype(int).tolist()


class Ours:
    def __init__(self, dtype: torch.dtype) -> None:
        base = BaseModel.from_module(make_model(dtype))
        self.sampler = Sampler(base, max_batch=BATCH, cache_tokens=32_768, prefix_tokens=0)

    def __call__(self, prompts: list[list[int]], lengths: list[int], samples: int = 1, **how: Any) -> list[list[int]]:
        futures = [
            self.sampler.submit(prompt, SamplingParams(max_tokens=length, stop=[], seed=1, **how), samples)
            for prompt, length in zip(prompts, lengths, strict=True)
        ]
        self.sampler.run_until_idle()
        return [sequence.tokens for future in futures for sequence in future.result().sequences]


class Generate:
    def __init__(self, dtype: torch.dtype) -> None:
        self.model = make_model(dtype)

    def __call__(self, prompts: list[list[int]], lengths: list[int], samples: int = 1, **how: Any) -> list[list[int]]:
        """Static batches of `BATCH`, each run to its longest, then cut."""
        found: list[list[int]] = []
        for start in range(0, len(prompts), BATCH):
            tokens = torch.tensor(prompts[start : start + BATCH])
            wanted = lengths[start : start + BATCH]
            with torch.no_grad():
                made = self.model.generate(
                    tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=max(wanted), eos_token_id=None,
                    pad_token_id=0, num_return_sequences=samples, **how,
                )  # fmt: skip
            rows = made[:, tokens.shape[1] :].tolist()
            found += [row[:length] for row, length in zip(rows, np.repeat(wanted, samples), strict=True)]
        return found


def make_cases(dtype: torch.dtype) -> list[Case]:
    ours, theirs = Ours(dtype), Generate(dtype)
    equal, same = _prompts(BATCH, PROMPT, 0), [NEW] * BATCH
    lengths = _output_lengths(2 * BATCH)
    many, long = _prompts(len(lengths), PROMPT, 1), _prompts(1, LONG_PROMPT, 2)
    draws = {"do_sample": True, "temperature": 1.0, "top_k": 0, "top_p": 1.0}
    return [
        Case(
            "greedy", BATCH * NEW,
            lambda: ours(equal, same, temperature=0), lambda: theirs(equal, same, do_sample=False),
        ),
        Case("sampled", BATCH * NEW, lambda: ours(equal, same), lambda: theirs(equal, same, **draws)),
        Case("mixed lengths", sum(lengths), lambda: ours(many, lengths), lambda: theirs(many, lengths, **draws)),
        Case(
            "shared prompt", SAMPLES * NEW,
            lambda: ours(long, [NEW], SAMPLES), lambda: theirs(long, [NEW], SAMPLES, **draws),
        ),
    ]  # fmt: skip


def _timed(run: Callable[[], list[list[int]]]) -> float:
    start = time.process_time()
    run()
    return time.process_time() - start


def measure(case: Case, dtype: str, repeats: int) -> dict[str, Any]:
    """Both sides in turn, after one round that warms up and compares what can be compared."""
    ours, theirs = case.ours(), case.theirs()
    assert [len(row) for row in ours] == [len(row) for row in theirs]
    if case.name == "greedy" and dtype == "float32":
        assert ours == theirs, "greedy tokens differ from generate's"
    pairs = [(_timed(case.ours), _timed(case.theirs)) for _ in range(repeats)]
    mine, other = (min(side) for side in zip(*pairs, strict=True))
    row = {
        "case": case.name, "dtype": dtype, "tokens": case.tokens, "ours_s": mine, "generate_s": other,
        "ours_median_s": statistics.median(p[0] for p in pairs),
        "generate_median_s": statistics.median(p[1] for p in pairs), "ratio": other / mine,
    }  # fmt: skip
    print(
        f"{dtype:9} {case.name:14} ours {case.tokens / mine:6.0f} tok/s   generate {case.tokens / other:6.0f} tok/s   "
        f"x{other / mine:.2f}", flush=True,
    )  # fmt: skip
    return row


def write(rows: list[dict[str, Any]]) -> None:
    lines = [
        (
            f"{WORDS[r['case']]}, {r['dtype']}", f"{r['tokens']:,}", f"{r['tokens'] / r['ours_s']:,.0f}",
            f"{r['tokens'] / r['generate_s']:,.0f}", f"{r['ours_median_s']:.2f}", f"{r['generate_median_s']:.2f}",
        )
        for r in rows
    ]  # fmt: skip
    header = ("case", "new tokens", "ours tok/CPU s", "generate tok/CPU s", "ours median s", "generate median s")
    found = [
        Verdict(
            f"{r['case']}, {r['dtype']}: CPU of `generate` over ours", f">= {BARS[r['case']]:g}", r["ratio"],
            r["ratio"] >= BARS[r["case"]],
        )
        for r in rows
    ]  # fmt: skip
    about = (
        f"{describe()}; one thread, process CPU time, best of the repeats; torch {torch.__version__}, "
        f"transformers {transformers.__version__}. Random Qwen3, hidden 512, 8 layers, vocabulary 32,000. Ours returns "
        "logprobs too. CUDA paths (static decode, graphs) are written and guarded; they are unmeasured."
    )
    replace_section(
        "sample", join("## Sampling (`benchmarks/sample.py`)", about, table(header, lines), verdicts(found))
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dtypes", nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--cases", nargs="+", default=list(BARS), choices=list(BARS))
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--write", action="store_true")
    options = parser.parse_args()
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    rows = [
        measure(case, name, options.repeats)
        for name in options.dtypes
        for case in make_cases(getattr(torch, name))
        if case.name in options.cases
    ]
    if options.json:
        options.json.write_text(json.dumps({"machine": describe(), "rows": rows}, indent=1) + "\n", encoding="utf-8")
    if options.write:
        write(rows)
    if any(row["ratio"] < BARS[row["case"]] for row in rows):
        sys.exit("a bar is missed")


if __name__ == "__main__":
    main()

"""What every adapter shares: run one peer over one input and print one JSON line of what it cost.

An adapter gives `load(options)`, which imports, loads the tokenizer and builds the renderer, and the work itself, from
the lines of a file to token and weight arrays; the two are timed apart. The work is `examples(state, path, counts)`,
which yields the arrays, or `convert(state, path)` where the peer's own result is something else.
Nothing but the standard library at import, and no name that a peer's own modules use: every environment runs it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any


@dataclass
class Counts:
    """What came out.

    Attributes:
        conversations: rows read.
        examples: training examples made; more than the rows where a peer makes one per turn.
        tokens: tokens before the shift, over all examples.
        trained: tokens with a weight above 0.
    """

    conversations: int = 0
    examples: int = 0
    tokens: int = 0
    trained: int = 0

    def add(self, tokens: int, trained: int) -> None:
        self.examples += 1
        self.tokens += tokens
        self.trained += trained


@dataclass
class Options:
    """The command line of an adapter: `folder` holds tokenizer.json and the template, `mode` is the adapter's own."""

    folder: Path
    input: Path
    mode: str
    workers: int
    cores: list[int]
    repeat: int
    latency: bool
    digest: bool


@dataclass
class Adapter:
    """One peer. `examples` yields (int32 tokens, float32 weights), unshifted, as numpy arrays.

    Attributes:
        packages: distributions whose versions are reported.
        load: options -> state.
        examples: state, input file, counts (of which it counts the conversations) -> arrays.
        convert: state, input file -> counts; by default, counts what `examples` yields.
        prompt: state, messages -> token ids of the generation prompt.
    """

    packages: list[str]
    load: Callable[[Options], Any]
    examples: Callable[[Any, Path, Counts], Iterator[tuple[Any, Any]]] | None = None
    convert: Callable[[Any, Path], Counts] | None = None
    prompt: Callable[[Any, list[dict[str, Any]]], list[int]] | None = None


def rows(path: Path, counts: Counts | None = None) -> Iterator[Any]:
    """Parsed lines, counted."""
    import orjson

    counts = counts or Counts()
    with path.open("rb") as file:
        for line in file:
            counts.conversations += 1
            yield orjson.loads(line)


def run(adapter: Adapter) -> None:
    """Time `load` and the work and print the JSON line.

    With `--latency` the work is the prompt of every row, one at a time; with `--digest` nothing is timed and the line
    holds a hash of every example.
    """
    options = _options()
    os.sched_setaffinity(0, options.cores)  # before any library starts a pool of threads
    began = _cpu()
    state = adapter.load(options)
    loaded, wall = _cpu(), time.perf_counter()
    if options.digest:
        report: dict[str, Any] = {"digests": _digests(adapter, state, options.input)}
    elif options.latency:
        report = _latency(adapter, state, options)
    else:
        report = asdict(adapter.convert(state, options.input) if adapter.convert else _count(adapter, state, options))
    report |= {
        "cpu_s": _cpu() - loaded,
        "wall_s": time.perf_counter() - wall,
        "load_cpu_s": loaded - began,
        "start_cpu_s": began,
        "peak_rss_mb": _peak_rss_mb(),
        "python": sys.version.split()[0],
        "versions": {name: version(name) for name in adapter.packages},
    }
    print(json.dumps(report), flush=True)


def _options() -> Options:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--input", type=Path, required=True)
    parser.add_argument("--mode", default="")
    parser.add_argument("--workers", type=int, default=1)
    parser.add_argument("--cores", type=int, nargs="+", default=sorted(os.sched_getaffinity(0)))
    parser.add_argument("--repeat", type=int, default=5)
    parser.add_argument("--latency", action="store_true")
    parser.add_argument("--digest", action="store_true")
    return Options(**vars(parser.parse_args()))


def _count(adapter: Adapter, state: Any, options: Options) -> Counts:
    counts = Counts()
    assert adapter.examples is not None
    for tokens, weights in adapter.examples(state, options.input, counts):
        counts.add(len(tokens), int((weights != 0).sum()))
    return counts


def _digests(adapter: Adapter, state: Any, path: Path) -> list[str]:
    """One hash per example: its ids up to the last trained one, and which of them are trained.

    What a template writes after the last trained token (a newline, say) trains nothing; some cut it and some do not.
    """
    if adapter.examples is None:
        raise SystemExit(f"{sys.argv[0]}: no examples to hash here")
    found: list[str] = []
    for tokens, weights in adapter.examples(state, path, Counts()):
        trained = weights != 0
        end = max(trained.nonzero()[0], default=-1) + 1
        content = tokens[:end].astype("int32").tobytes() + trained[:end].tobytes()
        found.append(hashlib.sha256(content).hexdigest()[:16])
    return found


def _latency(adapter: Adapter, state: Any, options: Options) -> dict[str, Any]:
    """Milliseconds per prompt, one call at a time after a warm pass: CPU time (median, 95th percentile) and wall."""
    prompt = adapter.prompt
    if prompt is None:
        raise SystemExit(f"{sys.argv[0]}: no generation prompts here")
    prompts = [row["messages"] for row in rows(options.input)]
    tokens = sum(len(prompt(state, messages)) for messages in prompts)
    times: list[float] = []
    walls: list[float] = []
    for _ in range(options.repeat):
        for messages in prompts:
            began, wall = time.process_time_ns(), time.perf_counter_ns()
            prompt(state, messages)
            times.append((time.process_time_ns() - began) / 1e6)
            walls.append((time.perf_counter_ns() - wall) / 1e6)
    times.sort()
    walls.sort()
    return {
        "prompts": len(prompts),
        "tokens": tokens,
        "median_ms": times[len(times) // 2],
        "p95_ms": times[int(len(times) * 0.95)],
        "wall_median_ms": walls[len(walls) // 2],
    }


def _cpu() -> float:
    """CPU seconds, user and system, of this process and of its children that have ended."""
    own, children = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + children.ru_utime + children.ru_stime


def _peak_rss_mb() -> float:
    """Peak resident memory of the largest process in MB; ru_maxrss of this one would include its launcher's."""
    status = Path("/proc/self/status").read_text()
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) * 1024 / 1e6

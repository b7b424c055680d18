"""Running cases: every case once per round, one core each, one process at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from machine import cores
from peers.cases import Case
from peers.environments import python_of

ROOT = Path(__file__).resolve().parents[1]
ADAPTERS = Path(__file__).resolve().parent / "peers"
# One thread each; every pool that any of the libraries starts.
_PINS = {
    "RAYON_NUM_THREADS": "1",
    "TOKENIZERS_PARALLELISM": "false",
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "HF_HUB_OFFLINE": "1",
    "HF_DATASETS_OFFLINE": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
}

Result = dict[str, Any]


@dataclass(frozen=True)
class Inputs:
    """Files for the cases: the model folder, the main conversations, and the large ones."""

    folder: Path
    main: Path
    large: Path


@dataclass
class Rounds:
    """Results by case name, one per round; and for the cases that failed, their last words."""

    results: dict[str, list[Result]]
    failures: dict[str, str]

    def medians(self, name: str) -> Result:
        """The result of the case with each number replaced by its median over the rounds."""
        every = self.results[name]
        numbers = {
            key: median([result[key] for result in every])
            for key, value in every[0].items()
            if isinstance(value, (int, float))
        }
        return every[0] | numbers

    def ratio(self, slow: Sequence[str], fast: str, key: str = "cpu_s") -> float | None:
        """Median over the rounds of min(`slow`) / `fast` within a round; None when one of the cases did not run."""
        present = [name for name in slow if self.results.get(name)]
        if not present or not self.results.get(fast):
            return None
        per_round = zip(*[self.results[name] for name in present], strict=False)
        pairs = zip(per_round, self.results[fast], strict=False)
        return median([min(result[key] for result in slows) / quick[key] for slows, quick in pairs])


def run_rounds(cases: Sequence[Case], inputs: Inputs, rounds: int, extra: Sequence[str] = ()) -> Rounds:
    """Every case once per round, in turn, so that a slow minute of the machine hits all of them."""
    outcome = Rounds({}, {})
    for number in range(rounds):
        for case in cases:
            if case.name in outcome.failures:
                continue
            try:
                result = run_case(case, inputs, extra)
            except RuntimeError as error:
                outcome.failures[case.name] = str(error)
                outcome.results.pop(case.name, None)
                _say(f"round {number + 1}  {case.name}: FAILED  {error}")
                continue
            outcome.results.setdefault(case.name, []).append(result)
            _say(f"round {number + 1}  {case.name}: {result['cpu_s']:.3f} CPU s, {result['wall_s']:.3f} s")
    return outcome


def run_case(case: Case, inputs: Inputs, extra: Sequence[str] = ()) -> Result:
    """One process, pinned; its JSON line.

    Raises:
        RuntimeError: with the last line of its stderr, when it fails or its environment is not built.
    """
    python = python_of(case.environment) if case.environment else Path(sys.executable)
    if not python.exists():
        raise RuntimeError(f"no environment: python benchmarks/peers/environments.py {case.environment}")
    source = inputs.large if case.input == "large" else inputs.main
    command = [str(python), str(ADAPTERS / case.script), "--folder", str(inputs.folder), "--input", str(source)]
    command += ["--mode", case.mode, "--workers", str(case.workers), *extra, "--cores"]
    command += map(str, cores()[-case.workers :])
    environment = os.environ | _PINS
    environment.pop("VIRTUAL_ENV", None)
    if not case.environment:
        environment["PYTHONPATH"] = str(ROOT)
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1])
    return json.loads(done.stdout.strip().splitlines()[-1])


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)

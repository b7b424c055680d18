"""Kills a build with -9 at random moments, over and over, and compares what it ends with, byte for byte.

    python benchmarks/kill_test.py --kills 20

Each build runs with 2 workers. Killed is the whole process group, or the parent alone (its workers notice), or one
worker (the build goes on). The killed build is started again until it finishes; then the next one begins.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
_BUILD = """
import json, sys
sys.path.insert(0, sys.argv[1])
from datasets_io import RenderSpec, run_build
arguments = json.loads(sys.argv[2])
run_build(arguments["inputs"], arguments["out"], RenderSpec(**arguments["spec"]), workers=2, dedup=True)
"""
VICTIMS = ("all", "parent", "worker")


def run_kill_test(folder: Path, kills: int, seed: int, rows: int = 600) -> Counter[str]:
    """Kills by victim.

    Raises:
        AssertionError: a build ended with other files than an uninterrupted one in this process.
    """
    sys.path.insert(0, str(ROOT))
    from datasets_io import RenderSpec, run_build

    chooser = random.Random(seed)
    inputs = _inputs(folder, rows)
    spec = {"model": str(ROOT / "fixtures" / "tiny-chat"), "block_bytes": 4000, "eval_fraction": 0.1}
    reference, out = folder / "reference", folder / "out"
    outcome = run_build(inputs, reference, RenderSpec(**spec), dedup=True)
    expected = _files(reference)
    arguments = json.dumps({"inputs": inputs, "out": str(out), "spec": spec})
    done = Counter[str]()
    while done.total() < kills:
        shutil.rmtree(out, ignore_errors=True)
        while not (out / "manifest.json").exists() or (out / "run.json").exists():
            victim = chooser.choice(VICTIMS) if done.total() < kills else ""
            if _build(arguments, out, victim, chooser, outcome.num_blocks):
                done[victim] += 1
        found = _files(out)
        different = sorted(name for name in {*expected, *found} if expected.get(name) != found.get(name))
        if different:
            raise AssertionError(f"after {dict(done)}: expected the same files; different: {different}")
    return done


def _build(arguments: str, out: Path, victim: str, chooser: random.Random, num_blocks: int) -> bool:
    """Run a build to its end, or kill the victim once a random number of blocks is there; whether one was killed."""
    process = subprocess.Popen([sys.executable, "-c", _BUILD, str(ROOT), arguments])
    try:
        if victim:
            here = _sidecars(out)
            target = chooser.randint(here, num_blocks)
            while process.poll() is None and _sidecars(out) < target:
                time.sleep(0.001)
            time.sleep(chooser.random() * 0.02)
            workers = _children(process.pid)
            if process.poll() is None and (workers or victim != "worker"):
                for pid in {
                    "all": [process.pid, *workers],
                    "parent": [process.pid],
                    "worker": workers[:1],
                }[victim]:
                    _kill(pid)
                if victim == "worker":
                    _finish(process)
                else:
                    process.wait()
                return True
        _finish(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return False


def _finish(process: subprocess.Popen[bytes]) -> None:
    code = process.wait(timeout=300)
    if code:
        raise AssertionError(f"a build that nobody killed ended with {code}")


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def _children(pid: int) -> list[int]:
    try:
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    except FileNotFoundError:
        return []


def _sidecars(out: Path) -> int:
    return sum(1 for path in (out / "blocks").glob("?????.json")) if (out / "blocks").is_dir() else 0


def _inputs(folder: Path, rows: int) -> list[str]:
    """Good rows, bad ones and repeated ones."""
    conversations = ROOT / "fixtures" / "conversations"
    good = (conversations / "train_chat.jsonl").read_bytes().splitlines()[:rows]
    bad = (conversations / "bad.jsonl").read_bytes().splitlines()
    mixed = [*good, *bad, *good[: rows // 4]]
    random.Random(1).shuffle(mixed)
    path = folder / "rows.jsonl"
    path.write_bytes(b"\n".join(mixed) + b"\n")
    return [str(path)]


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rows", type=int, default=600)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        done = run_kill_test(Path(folder), chosen.kills, chosen.seed, chosen.rows)
    print(f"{done.total()} kills ({', '.join(f'{name} {number}' for name, number in done.items())}): the same bytes")


if __name__ == "__main__":
    main()

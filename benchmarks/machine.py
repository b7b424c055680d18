"""The machine in words, and how much of it was free."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

_SPIN = """
import os, sys
os.sched_setaffinity(0, {int(sys.argv[1])})
x = 0
for i in range(6_000_000):
    x += i * i % 7
"""


def describe() -> str:
    """CPU model, cores, memory, Python; no host name and no path."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.machine())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (
        f"{model}, {len(cores())} cores, {memory:.0f} GiB memory, {platform.system()}, "
        f"Python {platform.python_version()}"
    )


def cores() -> list[int]:
    """Cores this process may use."""
    return sorted(os.sched_getaffinity(0))


def parallel_headroom() -> float:
    """How many times faster two pure CPU jobs ran side by side on two cores than one after the other; 2.0 at best.

    A two-worker result can be no better than this on a machine shared with others.
    """

    def spin(core: int) -> subprocess.Popen[bytes]:
        return subprocess.Popen([sys.executable, "-c", _SPIN, str(core)])

    began = time.perf_counter()
    for core in cores()[:2]:
        spin(core).wait()
    apart = time.perf_counter() - began
    began = time.perf_counter()
    for job in [spin(core) for core in cores()[:2]]:
        job.wait()
    return apart / (time.perf_counter() - began)

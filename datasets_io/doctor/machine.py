"""The machine: processors, memory, disk, SQLite, and the GPU when torch is installed."""

from __future__ import annotations

import os
import shutil
import sqlite3
from importlib import metadata
from pathlib import Path

from .findings import Finding, State

__all__ = ["machine_findings"]

THREAD_VARIABLES = ("OMP_NUM_THREADS", "RAYON_NUM_THREADS", "TOKENIZERS_PARALLELISM")
MEMORY = Path("/proc/meminfo")
# Control group version 2: "QUOTA PERIOD" in microseconds, or "max PERIOD".
PROCESSOR_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def machine_findings() -> list[Finding]:
    """Amounts are of this process and its working folder; bytes as GB (10^9)."""
    return [
        _note("processors", _processors()),
        _note("threads", ", ".join(f"{name}={os.environ.get(name, 'unset')}" for name in THREAD_VARIABLES)),
        _note("memory", _memory()),
        _note("disk", f"{_gigabytes(shutil.disk_usage(Path.cwd()).free)} free in {Path.cwd()}"),
        _note("sqlite", sqlite3.sqlite_version),
        _gpu(),
    ]


def _note(name: str, value: str) -> Finding:
    return Finding("machine", name, State.OK, value)


def _gigabytes(number: int) -> str:
    return f"{number / 1e9:.1f} GB"


def _processors() -> str:
    usable = len(os.sched_getaffinity(0))
    text = f"{usable} usable of {os.cpu_count()}"
    quota = PROCESSOR_QUOTA.read_text().split() if PROCESSOR_QUOTA.is_file() else []
    if len(quota) == 2 and quota[0] != "max":
        text += f", limited to {int(quota[0]) / int(quota[1]):g} by the control group"
    return text


def _memory() -> str:
    if not MEMORY.is_file():
        return "unknown"
    lines = (line.split() for line in MEMORY.read_text().splitlines())
    kibibytes = {parts[0].rstrip(":"): int(parts[1]) for parts in lines if len(parts) >= 2}
    return f"{_gigabytes(kibibytes['MemAvailable'] * 1024)} free of {_gigabytes(kibibytes['MemTotal'] * 1024)}"


def _gpu() -> Finding:
    try:
        metadata.version("torch")
    except metadata.PackageNotFoundError:
        return Finding("machine", "gpu", State.MISSING, "unknown without torch", "only training and sampling use it")
    try:
        import torch
    except (ImportError, OSError) as error:
        return Finding(
            "machine", "gpu", State.MISSING, f"torch does not load: {error}", 'pip install "datumloom[train]"'
        )
    if not torch.cuda.is_available():
        return Finding("machine", "gpu", State.MISSING, "torch sees none", "only training and sampling use it")
    names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
    return _note("gpu", f"CUDA {torch.version.cuda}: {', '.join(names)}")

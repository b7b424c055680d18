"""The options are a promise to scripts: a change to any of them changes `flags.txt` in the same commit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).parent


def test_flags_are_the_frozen_ones() -> None:
    done = subprocess.run([sys.executable, HERE / "list_flags.py"], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    frozen = (HERE / "flags.txt").read_text(encoding="utf-8").splitlines()
    assert done.stdout.splitlines() == frozen, "an option changed; `make flags` writes flags.txt again"

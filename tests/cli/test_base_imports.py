"""The base installation imports without any library of an extra."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

# Every module of the layers below training, with the libraries of the extras made impossible to import.
PROBE = """
import importlib, pkgutil, sys
for name in ["accelerate", "datasets", "peft", "ray", "tinker", "torch", "transformers"]:
    sys.modules[name] = None
import cli
imported = []
for package in ["renderers", "datasets_io"]:
    top = importlib.import_module(package)
    imported.append(package)
    for module in pkgutil.walk_packages(top.__path__, package + "."):
        importlib.import_module(module.name)
        imported.append(module.name)
print(*imported, sep="\\n")
"""


def test_every_module_imports_without_the_extras(repository: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROBE], capture_output=True, text=True, cwd=repository, check=False
    )
    assert done.returncode == 0, done.stderr
    modules = done.stdout.split()
    assert "datasets_io.progress" in modules
    assert "renderers.types" in modules

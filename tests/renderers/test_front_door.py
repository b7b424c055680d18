"""`renderers` names what it exports without importing it."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import datasets_io
import renderers

HEAVY = ("fastokens", "jinja2", "numpy", "pyarrow", "tokenizers", "torch", "transformers")
PROBE = "import sys, {0}\nprint(*(name for name in {1!r} if name in sys.modules))"


@pytest.mark.parametrize("package", ["renderers", "datasets_io"])
def test_importing_a_package_loads_no_library(package: str, repository: Path) -> None:
    command = [sys.executable, "-c", PROBE.format(package, HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, check=True)
    assert done.stdout.split() == []


def test_rendering_loads_neither_torch_nor_transformers(repository: Path) -> None:
    code = "from renderers import get_renderer, get_tokenizer; get_renderer('fixtures/tiny-chat')\n"
    command = [sys.executable, "-c", code + PROBE.format("renderers", HEAVY)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=repository, check=True)
    assert set(done.stdout.split()) & {"pyarrow", "torch", "transformers"} == set()
    assert "numpy" in done.stdout.split()


@pytest.mark.parametrize("package", [renderers, datasets_io])
def test_every_name_is_there_for_programs_and_for_type_checkers(package: object) -> None:
    assert isinstance(package, type(renderers))
    assert dir(package) == sorted(package.__all__)
    assert set(package._MODULES) == set(package.__all__)
    assert list(package._MODULES) == sorted(package._MODULES)
    for name, module in package._MODULES.items():
        found = importlib.import_module(f"{package.__name__}.{module}")
        assert getattr(package, name) is getattr(found, name), name
    assert package.__file__
    tree = ast.parse(Path(package.__file__).read_text(encoding="utf-8"))
    (checked,) = [node for node in tree.body if isinstance(node, ast.If)]
    seen = {
        alias.name: node.module for node in checked.body if isinstance(node, ast.ImportFrom) for alias in node.names
    }
    assert seen == package._MODULES


def test_a_name_that_is_not_there_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        _ = renderers.nothing  # type: ignore[attr-defined]

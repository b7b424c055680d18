"""Imports point one way, go through front doors, and leave heavy libraries to the functions that need them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Each may import what stands to its right.
LAYERS = ["cli", "trainer", "datasets_io", "renderers"]
# Not installed by the base, or slow to import.
LAZY = {"datasets", "peft", "ray", "tinker", "torch", "transformers"}
FILES = [ROOT / "cli.py", *(file for layer in LAYERS[1:] for file in sorted((ROOT / layer).rglob("*.py")))]


class Import(NamedTuple):
    """One imported module: its dotted name, the line, and whether it runs when the file is imported."""

    module: str
    line: int
    at_import: bool


def imports(source: str, package: str) -> Iterator[Import]:
    """All imports of a file in `package`, relative ones made absolute."""
    yield from _walk(ast.parse(source).body, package, at_import=True)


def _walk(nodes: list[ast.stmt], package: str, *, at_import: bool) -> Iterator[Import]:
    for node in nodes:
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(alias.name, node.lineno, at_import)
        elif isinstance(node, ast.ImportFrom):
            parent = package.split(".")
            above = ".".join(parent[: len(parent) - node.level + 1]) if node.level else ""
            yield Import(".".join(part for part in (above, node.module) if part), node.lineno, at_import)
        elif isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            # Only the type checker runs it; its layers count, its weight does not.
            yield from _walk(node.body, package, at_import=False)
            yield from _walk(node.orelse, package, at_import=at_import)
        else:
            inside = at_import and not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
            yield from _walk(list(_statements(node)), package, at_import=inside)


def _statements(node: ast.stmt) -> Iterator[ast.stmt]:
    """Statements directly under a compound statement, those of handlers and cases too."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.stmt):
            yield child
        elif isinstance(child, ast.ExceptHandler | ast.match_case):
            yield from child.body


def imports_of(file: Path) -> list[Import]:
    package = ".".join(file.relative_to(ROOT).parent.parts)
    return list(imports(file.read_text(encoding="utf-8"), package))


def test_the_walker_sees_every_kind_of_import() -> None:
    source = """
import a.b
from . import c
from ..d import e
try:
    import f
except ImportError:
    import g
if TYPE_CHECKING:
    import h
def function():
    import i
class Holder:
    import j
    def method(self):
        with x:
            from k import l
"""
    assert [(one.module, one.at_import) for one in imports(source, "top.sub")] == [
        ("a.b", True),
        ("top.sub", True),
        ("top.d", True),
        ("f", True),
        ("g", True),
        ("h", False),
        ("i", False),
        ("j", True),
        ("k", False),
    ]


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_imports_point_one_way(file: Path) -> None:
    mine = file.relative_to(ROOT).parts[0].removesuffix(".py")
    rank = LAYERS.index(mine)
    upward = [
        f"{file.relative_to(ROOT)}:{one.line}: {one.module}"
        for one in imports_of(file)
        if one.module.split(".")[0] in LAYERS[:rank]
    ]
    assert upward == []


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_other_packages_are_entered_through_their_front_door(file: Path) -> None:
    mine = file.relative_to(ROOT).parts[0].removesuffix(".py")
    around = [
        f"{file.relative_to(ROOT)}:{one.line}: {one.module}"
        for one in imports_of(file)
        if one.module.split(".")[0] in LAYERS and one.module.split(".")[0] != mine and "." in one.module
    ]
    assert around == []


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if file.relative_to(ROOT).parts[0] != "trainer"],
    ids=lambda file: str(file.relative_to(ROOT)),
)
def test_heavy_libraries_are_imported_by_functions(file: Path) -> None:
    heavy = [
        f"{file.relative_to(ROOT)}:{one.line}: {one.module}"
        for one in imports_of(file)
        if one.at_import and one.module.split(".")[0] in LAZY
    ]
    assert heavy == []

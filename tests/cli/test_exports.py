"""Every public module says what it exports: sorted, without repeats, and all of it is there."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
MODULES = [
    file
    for file in [
        ROOT / "cli.py",
        *(f for p in ("renderers", "datasets_io", "trainer") for f in (ROOT / p).rglob("*.py")),
    ]
    if not file.name.startswith("_") or file.name == "__init__.py"
]


def order(name: str) -> tuple[int, str]:
    """Constants, then classes, then functions, each by name: the order ruff keeps."""
    kind = 0 if name.isupper() and len(name) > 1 else 1 if name[:1].isupper() else 2
    return kind, name


def exported(tree: ast.Module) -> list[str] | None:
    """The value of `__all__`; None where there is none."""
    for node in tree.body:
        target = (
            node.target
            if isinstance(node, ast.AnnAssign)
            else node.targets[0]
            if isinstance(node, ast.Assign)
            else None
        )
        if isinstance(target, ast.Name) and target.id == "__all__":
            assert isinstance(node, ast.Assign | ast.AnnAssign)
            assert node.value is not None
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def bound(nodes: list[ast.stmt]) -> set[str]:
    """Names that the top level of a module binds, for the type checker too."""
    names: set[str] = set()
    for node in nodes:
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Import | ast.ImportFrom):
            names |= {(alias.asname or alias.name).split(".")[0] for alias in node.names}
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            names |= {child.id for target in targets for child in ast.walk(target) if isinstance(child, ast.Name)}
        elif isinstance(node, ast.If | ast.Try):
            names |= bound([*node.body, *node.orelse])
    return names


@pytest.mark.parametrize("file", MODULES, ids=lambda file: str(file.relative_to(ROOT)))
def test_all_is_sorted_and_true(file: Path) -> None:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    names = exported(tree)
    assert names is not None, "a public module has an __all__"
    assert names == sorted(set(names), key=order)
    assert set(names) - bound(tree.body) == set()
    assert [name for name in names if name.startswith("_")] == []

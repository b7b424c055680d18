"""`docs/architecture.md` names only what is there."""

from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
TREE = re.compile(r"^```\n((?:renderers|datasets_io|trainer)/\n.*?)^```$", re.DOTALL | re.MULTILINE)
PLACE = re.compile(r"`((?:(?:renderers|datasets_io|trainer|tests)/[\w/.]*|cli\.py))(?:: (\w+))?`")


def listed(tree: str) -> list[str]:
    """Paths of a drawn tree: a name, or several with commas, after two spaces per level."""
    lines = tree.splitlines()
    found, folders = [lines[0]], [lines[0]]
    for line in lines[1:]:
        depth = (len(line) - len(line.lstrip())) // 2
        names = re.match(r"[\w/.]+(?:, [\w/.]+)*", line.strip())[0].split(", ")
        found += ["".join(folders[:depth]) + name for name in names]
        folders[depth:] = [names[0]] if names[0].endswith("/") else []
    return found


def test_every_file_of_the_trees_is_there() -> None:
    trees = TREE.findall(PAGE)
    paths = [path for tree in trees for path in listed(tree)]
    assert len(trees) == 3
    assert len(paths) > 80
    assert [path for path in paths if not (ROOT / path).exists()] == []


def test_every_function_is_where_the_page_says() -> None:
    places = PLACE.findall(PAGE)
    assert len(places) > 30
    for path, name in places:
        assert (ROOT / path).exists(), path
        if name:
            source = (ROOT / path).read_text(encoding="utf-8")
            defined = rf"^ *(?:def|class) {name}\b|^{name}(?:: .*?)? = "
            assert re.search(defined, source, re.MULTILINE), f"{path}: {name}"

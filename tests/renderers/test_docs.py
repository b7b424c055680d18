"""What pages and docstrings say is what the code does: examples run, quoted code is there, the table is generated."""

from __future__ import annotations

import doctest
import importlib
import re
from pathlib import Path

import pytest

from tests.renderers.options_table import PAGE, page_with_table

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(page.name for page in DOCS.glob("*.md") if "\n>>> " in page.read_text(encoding="utf-8"))
MODULES = sorted(
    ".".join(file.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    for package in ("renderers", "datasets_io")
    for file in (ROOT / package).rglob("*.py")
    if ">>> " in file.read_text(encoding="utf-8")
)
FENCED = re.compile(r"^```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def run(test: doctest.DocTest) -> None:
    said: list[str] = []
    runner = doctest.DocTestRunner(verbose=False)
    runner.run(test, out=said.append)
    assert not runner.failures, "".join(said)


@pytest.fixture(autouse=True)
def at_the_root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name: str) -> None:
    module = importlib.import_module(name)
    tests = [test for test in doctest.DocTestFinder(exclude_empty=True).find(module) if test.examples]
    assert tests, "examples that doctest does not find"
    for test in tests:
        run(test)


@pytest.mark.parametrize("name", PAGES)
def test_examples_on_pages(name: str) -> None:
    page = (DOCS / name).read_text(encoding="utf-8")
    code = "".join(block for block in FENCED.findall(page) if ">>> " in block)
    run(doctest.DocTestParser().get_doctest(code, {}, name, name, 0))


def test_code_quoted_on_pages_is_in_the_files_that_it_names() -> None:
    quoted = 0
    for page in sorted(DOCS.glob("*.md")):
        for block in FENCED.findall(page.read_text(encoding="utf-8")):
            first, _, code = block.partition("\n")
            if first.startswith("# ") and first.endswith(".py"):
                assert code in (ROOT / first[2:]).read_text(encoding="utf-8"), f"{page.name}: {first}"
                quoted += 1
    assert quoted


def test_the_table_of_options_is_what_the_families_take() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert page == page_with_table(page), "python -m tests.renderers.options_table"

"""The table of families and options in `docs/rendering.md`, from the code.

python -m tests.renderers.options_table     # writes it into the page
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterable
from pathlib import Path

from renderers import Family, Option
from renderers.registry import _families

__all__ = ["PAGE", "options_table", "page_with_table"]

PAGE = Path(__file__).resolve().parents[2] / "docs" / "rendering.md"
_TABLE = re.compile(r"(<!-- options: .* -->\n).*?(<!-- end of options -->)", re.DOTALL)
_HEAD = "| renderer | further names | option | type, default | what it does |\n|---|---|---|---|---|\n"


def options_table() -> str:
    """One row per family and option; families of other distributions are left out."""
    families = {family for family, _ in _families().values() if family.__module__.startswith("renderers.")}
    return _HEAD + "".join(row for family in sorted(families, key=lambda family: family.name) for row in _rows(family))


def page_with_table(page: str) -> str:
    """The page with the table as it has to be."""
    replaced, count = _TABLE.subn(lambda match: f"{match[1]}{options_table()}{match[2]}", page)
    assert count == 1, "expected the two comments around the table"
    return replaced


def _rows(family: type[Family]) -> Iterable[str]:
    names = "<br>".join(
        f"`{name}`" + (f": {', '.join(f'{key}={value!r}' for key, value in options.items())}" if options else "")
        for name, options in family.aliases.items()
    )
    first = f"| `{family.name}` | {names} "
    if not family.OPTIONS:
        yield f"{first}| | | |\n"
    for name, option in family.OPTIONS.items():
        yield f"{first}| {_named(name, option)} | {_type(option)} | {_meaning(family, name)} |\n"
        first = "| | "


def _named(name: str, option: Option) -> str:
    return f"`{name}` (`{option.variable}`)" if option.variable else f"`{name}`"


def _type(option: Option) -> str:
    kind = option.type.__name__
    if option.choices:
        listed = ", ".join(repr(choice) for choice in option.choices)
        kind = f"list of {listed}" if option.type is list else listed
    default = repr(option.default)
    return f"{kind}; `{default if len(default) < 40 else default[:36] + '…' + default[-1]}`"


def _meaning(family: type[Family], name: str) -> str:
    """What the class says about the option: under `Options:`, by its name, alone or among several."""
    text = inspect.getdoc(family) or ""
    _, _, options = text.partition("Options:\n")
    for entry in re.split(r"\n(?=    \S)", options.rstrip()):
        names, _, meaning = " ".join(entry.split()).partition(": ")
        if name in names.split(", "):
            return meaning.replace("|", "\\|")
    raise AssertionError(f"{family.__name__} says nothing about its option {name}")


if __name__ == "__main__":
    PAGE.write_text(page_with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")

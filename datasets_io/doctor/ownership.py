"""Who owns the top-level names: `renderers` and `trainer` are also names of other projects' packages."""

from __future__ import annotations

from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from .findings import Finding, State

__all__ = ["ownership_findings"]

DISTRIBUTION = "datumloom"
NAMES = ("cli", "datasets_io", "renderers", "trainer")
ROOT = Path(__file__).resolve().parents[2]
ADVICE = "use a fresh environment with datumloom alone"


def ownership_findings() -> list[Finding]:
    """For each flat name: no other distribution claims it, and importing it finds our file. Nothing is imported."""
    owners = metadata.packages_distributions()
    return [_finding(name, owners.get(name, [])) for name in NAMES]


def _finding(name: str, owners: list[str]) -> Finding:
    others = sorted({owner for owner in owners if owner.lower() != DISTRIBUTION})
    if others:
        return Finding("names", name, State.WRONG, f"also belongs to {', '.join(others)}", ADVICE)
    place = _place(name)
    if place is None:
        return Finding("names", name, State.WRONG, "not found", ADVICE)
    if place != ROOT:
        return Finding("names", name, State.WRONG, f"found in {place}, expected in {ROOT}", ADVICE)
    return Finding("names", name, State.OK, str(place))


def _place(name: str) -> Path | None:
    """Folder that holds the module or package which `import name` would take; None when there is none."""
    spec = find_spec(name)
    if spec is None:
        return None
    if spec.origin is not None:
        file = Path(spec.origin).resolve()
        return file.parent.parent if file.name == "__init__.py" else file.parent
    # A folder without __init__.py.
    folders = [Path(folder).resolve() for folder in spec.submodule_search_locations or []]
    return folders[0].parent if folders else None

"""Installed libraries against what the distribution asks for: the base ones must be there, extras may."""

from __future__ import annotations

import platform
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from .findings import Finding, State

if TYPE_CHECKING:
    from packaging.requirements import Requirement

__all__ = ["library_findings"]

DISTRIBUTION = "datumloom"
ROOT = Path(__file__).resolve().parents[2]
# Speeds up tokenizing and exists only for some platforms.
FAST_TOKENIZER = "fastokens"


class Declared(NamedTuple):
    """What the distribution declares: its version, its base libraries, and the libraries of each extra."""

    version: str
    base: list[str]
    extras: dict[str, list[str]]


def library_findings() -> list[Finding]:
    """Python, the distribution itself, every base library and every optional one.

    Raises:
        RuntimeError: neither installed metadata nor the project's own `pyproject.toml` is there.
    """
    declared = _declared()
    python = Finding("base", "python", State.OK, f"{platform.python_version()} ({sys.executable})")
    itself = Finding("base", DISTRIBUTION, State.OK, f"{declared.version} ({ROOT})")
    return [python, itself, *_base_findings(declared.base), *_extra_findings(declared.extras)]


def _declared() -> Declared:
    """From a source tree's `pyproject.toml` (an editable installation's metadata may be older), else from metadata."""
    source = ROOT / "pyproject.toml"
    if source.is_file():
        project: dict[str, Any] = tomllib.loads(source.read_text(encoding="utf-8")).get("project", {})
        if project.get("name") == DISTRIBUTION:
            return Declared(
                f"{project['version']}, source tree", project["dependencies"], project["optional-dependencies"]
            )
    try:
        installed = metadata.distribution(DISTRIBUTION)
    except metadata.PackageNotFoundError as error:
        raise RuntimeError(f"no metadata of {DISTRIBUTION} and no pyproject.toml in {ROOT}") from error
    return _from_metadata(installed)


def _from_metadata(installed: metadata.Distribution) -> Declared:
    """Metadata has one list, where the requirements of extra X carry the marker `extra == "X"`."""
    from packaging.requirements import Requirement

    base: list[str] = []
    extras: dict[str, list[str]] = {name: [] for name in installed.metadata.get_all("Provides-Extra") or []}
    for text in installed.requires or []:
        requirement = Requirement(text)
        marker = requirement.marker
        if marker is None or "extra ==" not in str(marker):
            base.append(text)
            continue
        requirement.marker = None
        for name, members in extras.items():
            if marker.evaluate({"extra": name}):
                members.append(str(requirement))
    return Declared(installed.version, base, extras)


def _base_findings(texts: list[str]) -> list[Finding]:
    from packaging.requirements import Requirement

    found: list[Finding] = []
    for requirement in map(Requirement, texts):
        if requirement.marker is None or requirement.marker.evaluate():
            found.append(_look(requirement, "base", State.WRONG, f'pip install --force-reinstall "{DISTRIBUTION}"'))
        elif requirement.name == FAST_TOKENIZER:
            value = f"no wheel for {platform.system()} {platform.machine()}"
            found.append(
                Finding("base", FAST_TOKENIZER, State.MISSING, value, "tokenizers does the work, several times slower")
            )
    return found


def _extra_findings(extras: dict[str, list[str]]) -> list[Finding]:
    from packaging.requirements import Requirement

    bringers: dict[str, list[str]] = {}
    wanted: dict[str, Requirement] = {}
    for extra, texts in sorted(extras.items()):
        for requirement in map(Requirement, texts):
            # `all` names the others through the distribution itself.
            if requirement.name != DISTRIBUTION and extra != "all":
                bringers.setdefault(requirement.name, []).append(extra)
                wanted[requirement.name] = requirement
    return [
        _look(
            wanted[name],
            "extras",
            State.MISSING,
            f'extra {" or ".join(bringers[name])} brings it: pip install "{DISTRIBUTION}[{bringers[name][0]}]"',
        )
        for name in sorted(wanted)
    ]


def _look(requirement: Requirement, section: str, bad: State, advice: str) -> Finding:
    try:
        version = metadata.version(requirement.name)
    except metadata.PackageNotFoundError:
        return Finding(section, requirement.name, bad, "not installed", advice)
    if not requirement.specifier.contains(version, prereleases=True):
        value = f"{version}, but {requirement.specifier} is needed"
        return Finding(section, requirement.name, State.WRONG if section == "base" else State.MISSING, value, advice)
    return Finding(section, requirement.name, State.OK, version)

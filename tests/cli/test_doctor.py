"""`datumloom doctor`: true about this environment, and loud about a wrong one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement

from datasets_io.doctor import libraries


def hide(*names: str) -> str:
    """Code after which these distributions are not installed, as far as their metadata tells."""
    return (
        "from importlib import metadata\n"
        "known = metadata.version\n"
        "def version(name):\n"
        f"    if name in {names!r}: raise metadata.PackageNotFoundError(name)\n"
        "    return known(name)\n"
        "metadata.version = version\n"
    )


def doctor(
    repository: Path, *arguments: str, first_on_path: Path | None = None, hidden: tuple[str, ...] = ("torch",)
) -> subprocess.CompletedProcess[str]:
    """Run the doctor with the source tree on the path, optionally behind another folder.

    Without torch unless a test asks for it: importing it takes longer than all the rest.
    """
    path = [str(folder) for folder in (first_on_path, repository) if folder is not None]
    # -P: the working folder is not on the path by itself.
    return subprocess.run(
        [sys.executable, "-P", "-c", f"{hide(*hidden)}import cli; cli.main()", "doctor", *arguments],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(path)},
        check=False,
    )


def by_name(done: subprocess.CompletedProcess[str]) -> dict[str, dict[str, str]]:
    answer: dict[str, Any] = json.loads(done.stdout)
    return {finding["name"]: finding for finding in answer["findings"]}


def test_it_is_healthy_here_and_tells_every_declared_library(repository: Path) -> None:
    done = doctor(repository, "--json", hidden=())
    assert done.returncode == 0, done.stdout + done.stderr
    assert json.loads(done.stdout)["healthy"] is True
    found = by_name(done)
    project = tomllib.loads((repository / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = [
        *project["dependencies"],
        *(text for extra in project["optional-dependencies"].values() for text in extra),
    ]
    for requirement in map(Requirement, declared):
        assert requirement.name in found
    assert found["click"]["value"] == metadata.version("click")
    assert found["renderers"]["value"] == str(repository)


def test_the_text_has_a_line_for_each_finding(repository: Path) -> None:
    text = doctor(repository).stdout
    for name in ["python", "datumloom", "click", "torch", "trainer", "processors", "memory", "disk", "sqlite", "gpu"]:
        assert f" {name} " in text
    assert text.endswith("the base is fine\n")


def test_a_missing_optional_library_names_its_extra_and_is_no_fault(repository: Path) -> None:
    done = doctor(repository, "--json", hidden=("ray", "torch"))
    assert done.returncode == 0
    found = by_name(done)
    assert found["ray"]["state"] == "missing"
    assert found["ray"]["advice"] == 'extra ray brings it: pip install "datumloom[ray]"'
    assert found["torch"]["advice"] == 'extra train brings it: pip install "datumloom[train]"'
    assert found["gpu"]["value"] == "unknown without torch"


def test_a_missing_base_library_is_a_fault(repository: Path) -> None:
    done = doctor(repository, hidden=("orjson", "torch"))
    assert done.returncode == 1
    assert "wrong    orjson" in done.stdout
    assert done.stdout.endswith("1 wrong\n")


def foreign_distribution(folder: Path, *, with_package: bool) -> None:
    """Another project's distribution that owns `renderers`, as an installer leaves it."""
    info = folder / "other_renderers-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: other-renderers\nVersion: 1.0\n")
    (info / "top_level.txt").write_text("renderers\n")
    if with_package:
        (folder / "renderers").mkdir()
        (folder / "renderers" / "__init__.py").write_text("raise RuntimeError('not the right package')\n")


@pytest.mark.parametrize("with_package", [False, True], ids=["claims the name", "also comes first"])
def test_a_foreign_owner_of_a_flat_name_is_a_fault(repository: Path, tmp_path: Path, with_package: bool) -> None:
    foreign_distribution(tmp_path, with_package=with_package)
    done = doctor(repository, "--json", first_on_path=tmp_path)
    assert done.returncode == 1, done.stderr
    found = by_name(done)
    assert found["renderers"]["state"] == "wrong"
    assert found["renderers"]["value"] == "also belongs to other-renderers"
    assert "fresh environment" in found["renderers"]["advice"]
    assert found["trainer"]["state"] == "ok"


def test_a_folder_that_comes_first_is_a_fault_without_metadata_too(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "trainer.py").write_text("")
    done = doctor(repository, "--json", first_on_path=tmp_path)
    assert done.returncode == 1
    assert by_name(done)["trainer"]["value"] == f"found in {tmp_path}, expected in {repository}"


def test_metadata_of_a_wheel_is_read_like_the_project_file(tmp_path: Path) -> None:
    info = tmp_path / "datumloom-9.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(
        "Metadata-Version: 2.4\nName: datumloom\nVersion: 9\n"
        "Requires-Dist: click>=8.2\n"
        "Requires-Dist: fastokens; platform_machine == 'x86_64' and sys_platform == 'linux'\n"
        "Provides-Extra: ray\nRequires-Dist: ray[data]>=2.40; extra == 'ray'\n"
        "Provides-Extra: train\nRequires-Dist: torch<3,>=2.11; extra == 'train'\n"
    )
    declared = libraries._from_metadata(metadata.PathDistribution(info))
    assert declared.version == "9"
    assert [Requirement(text).name for text in declared.base] == ["click", "fastokens"]
    assert declared.extras == {"ray": ["ray[data]>=2.40"], "train": ["torch<3,>=2.11"]}


def test_a_platform_without_the_fast_tokenizer_is_fine() -> None:
    (found,) = libraries._base_findings(["fastokens>=0.3; platform_machine == 'abacus'"])
    assert found.state == "missing"
    assert found.value.startswith("no wheel for ")


def test_a_library_that_is_too_old_is_a_fault() -> None:
    (found,) = libraries._base_findings(["click>=999"])
    assert found.state == "wrong"
    assert found.value == f"{metadata.version('click')}, but >=999 is needed"

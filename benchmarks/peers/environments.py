"""One virtual environment per peer, under `.venvs/NAME`, so that no peer's pins reach another or the project.

    python benchmarks/peers/environments.py [NAME ...] [--fresh]

Set `UV_FIND_LINKS` to a folder of wheels to take torch from there (a CPU build, for instance); otherwise the
registry's build is taken. An environment already complete is left as it is.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
HOME = ROOT / ".venvs"
TORCH = "torch==2.13.0"


@dataclass(frozen=True)
class Environment:
    """What one peer needs.

    Attributes:
        packages: requirements, orjson among them: every peer parses its lines with the fastest parser.
        overrides: requirements that replace what a package asks for.
    """

    packages: tuple[str, ...]
    overrides: tuple[str, ...] = ()


ENVIRONMENTS: dict[str, Environment] = {
    # Its newest release asks for a tml-renderers that not every mirror has; the renderers timed here do not use it.
    "cookbook": Environment(("tinker-cookbook>=0.6.1", TORCH, "orjson"), overrides=("tml-renderers>=0.2.1",)),
    "transformers": Environment(("transformers", "jinja2", "numpy", "orjson")),
    "trl": Environment(("trl>=1.16", "transformers", "datasets", "jinja2", TORCH, "orjson")),
    # httpx is imported by it and not declared.
    "prime": Environment(("renderers", "transformers", "jinja2", "httpx", "orjson")),
    "tml": Environment(("tml-renderers", TORCH, "numpy", "orjson")),
}


def python_of(name: str) -> Path:
    """The interpreter of a peer's environment, whether or not it exists yet."""
    return HOME / name / "bin" / "python"


def is_ready(name: str) -> bool:
    """True when the environment was built from the requirements as they stand now."""
    marker = HOME / name / "requirements.json"
    return python_of(name).exists() and marker.exists() and marker.read_text() == _wanted(name)


def build(name: str, fresh: bool = False) -> None:
    """Build `.venvs/name`; nothing happens when it is ready."""
    if is_ready(name) and not fresh:
        print(f"{name}: ready")
        return
    uv, environment = _uv(), ENVIRONMENTS[name]
    shutil.rmtree(HOME / name, ignore_errors=True)
    subprocess.run([uv, "venv", "--quiet", "--python", sys.executable, str(HOME / name)], check=True)
    with tempfile.TemporaryDirectory() as folder:
        overrides = Path(folder) / "overrides.txt"
        overrides.write_text("\n".join(environment.overrides))
        command = [uv, "pip", "install", "--python", str(python_of(name)), "--override", str(overrides)]
        subprocess.run([*command, *environment.packages], check=True)
    (HOME / name / "requirements.json").write_text(_wanted(name))
    print(f"{name}: built")


def _wanted(name: str) -> str:
    environment = ENVIRONMENTS[name]
    return json.dumps({"packages": environment.packages, "overrides": environment.overrides})


def _uv() -> str:
    """Path of uv: the one beside this interpreter, one on PATH, or one installed for this purpose."""
    beside = Path(sys.executable).parent / "uv"
    found = str(beside) if beside.exists() else shutil.which("uv")
    if found:
        return found
    tool = HOME / "uv"
    subprocess.run([sys.executable, "-m", "venv", str(tool)], check=True)
    subprocess.run([str(tool / "bin" / "pip"), "install", "--quiet", "uv"], check=True)
    return str(tool / "bin" / "uv")


def main() -> None:
    parser = argparse.ArgumentParser(description="Build the peers' virtual environments.")
    parser.add_argument("names", nargs="*", choices=[[], *ENVIRONMENTS], default=[], metavar="NAME")
    parser.add_argument("--fresh", action="store_true", help="build again even when complete")
    arguments = parser.parse_args()
    os.environ.setdefault("UV_LINK_MODE", "hardlink")
    for name in arguments.names or ENVIRONMENTS:
        build(name, arguments.fresh)


if __name__ == "__main__":
    main()

"""`--help` answers at once: it imports no heavy library."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import pytest

import cli

HEAVY = ["datasets", "jinja2", "numpy", "pyarrow", "pydantic", "rich", "tokenizers", "torch", "transformers"]
COMMANDS_HERE = [name for name, lazy in cli.COMMANDS.items() if find_spec(lazy.path.split(":")[0]) is not None]

# Run in a new interpreter: calls an entry point, then tells what it imported and what it cost.
PROBE = """
import json, sys, time
entry, program, *arguments = sys.argv[1:]
sys.argv = [program, *arguments]
import cli
code = None
try:
    getattr(cli, entry)()
except SystemExit as leaving:
    code = leaving.code
top = sorted({name.partition(".")[0] for name in sys.modules})
print(json.dumps({"code": code, "modules": top, "cpu_seconds": time.process_time()}), file=sys.stderr)
"""


def probe(repository: Path, entry: str, program: str, *arguments: str) -> tuple[str, dict[str, object]]:
    """Standard output of the entry point, and exit code, top-level modules and CPU seconds of its process."""
    done = subprocess.run(
        [sys.executable, "-c", PROBE, entry, program, *arguments],
        capture_output=True,
        text=True,
        cwd=repository,
        check=True,
    )
    return done.stdout, json.loads(done.stderr.splitlines()[-1])


def assert_light(seen: dict[str, object]) -> None:
    assert seen["code"] == 0
    modules = seen["modules"]
    assert isinstance(modules, list)
    assert "click" in modules
    assert [name for name in HEAVY if name in modules] == []


def test_the_list_of_commands_imports_none_of_them(
    repository: Path, record_property: Callable[[str, object], None]
) -> None:
    text, seen = probe(repository, "main", "datumloom", "--help")
    assert_light(seen)
    # Reported, not judged: the machine may be busy.
    record_property("cpu_seconds", seen["cpu_seconds"])
    assert "datasets_io" not in seen["modules"]
    for name, lazy in cli.COMMANDS.items():
        assert f"  {name} " in text
        assert lazy.summary in text


@pytest.mark.parametrize("name", COMMANDS_HERE)
def test_help_of_a_command_is_light(repository: Path, name: str) -> None:
    text, seen = probe(repository, "main", "datumloom", name, "--help")
    assert_light(seen)
    assert text.startswith(f"Usage: datumloom {name} ")


@pytest.mark.skipif("render" not in COMMANDS_HERE, reason="the render command is not in this tree")
def test_render_jsonl_is_the_render_command(repository: Path) -> None:
    text, seen = probe(repository, "render_jsonl", "render-jsonl", "--help")
    assert_light(seen)
    same, _ = probe(repository, "main", "datumloom", "render", "--help")
    assert text.startswith("Usage: render-jsonl ")
    assert text.split("\n", 1)[1] == same.split("\n", 1)[1]


def test_version_is_the_one_of_the_project(repository: Path) -> None:
    text, seen = probe(repository, "main", "datumloom", "--version")
    assert_light(seen)
    assert text.startswith("datumloom ")

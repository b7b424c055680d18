"""Completion scripts, and what they ask the program."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import cli


def script(repository: Path, shell: str) -> str:
    return subprocess.run(
        [sys.executable, "cli.py", "completion", shell], capture_output=True, text=True, cwd=repository, check=True
    ).stdout


@pytest.mark.parametrize(
    ("shell", "registration"),
    [("bash", "complete -o nosort -F"), ("zsh", "compdef"), ("fish", "complete --no-files --command")],
)
def test_the_script_covers_both_programs(repository: Path, shell: str, registration: str) -> None:
    text = script(repository, shell)
    assert registration in text
    assert f"_DATUMLOOM_COMPLETE={shell}_complete" in text
    assert f"_RENDER_JSONL_COMPLETE={shell}_complete" in text


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_reads_the_script(repository: Path, shell: str) -> None:
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    subprocess.run([shell, "-n", "/dev/stdin"], input=script(repository, shell), text=True, check=True)


def complete(repository: Path, words: str, position: int) -> list[str]:
    """What a bash completion gets for this command line."""
    done = subprocess.run(
        [sys.executable, "-c", "import cli; cli.main()"],
        capture_output=True,
        text=True,
        cwd=repository,
        env={
            **os.environ,
            "_DATUMLOOM_COMPLETE": "bash_complete",
            "COMP_WORDS": words,
            "COMP_CWORD": str(position),
        },
        check=True,
    )
    return [line.split(",")[1] for line in done.stdout.splitlines()]


def test_commands_are_completed_without_importing_them(repository: Path) -> None:
    assert complete(repository, "datumloom ", 1) == list(cli.COMMANDS)
    assert complete(repository, "datumloom do", 1) == ["doctor"]


def test_options_of_a_command_are_completed(repository: Path) -> None:
    assert complete(repository, "datumloom doctor --j", 2) == ["--json"]
    assert complete(repository, "datumloom completion z", 2) == ["zsh"]

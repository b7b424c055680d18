"""Every way out of a command: one line on standard error, and the documented exit code."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

import cli
from renderers import InputError, InternalError, MissingExtraError, UserError


class OverTheLimit(UserError):
    """Carries its own exit code, as an error of another package does."""

    exit_code = 3


def leave(monkeypatch: pytest.MonkeyPatch, error: BaseException, *, program: str = "datumloom") -> int:
    """Exit code of a program whose command raises this."""

    @click.command()
    def failing() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", [program])
    with pytest.raises(SystemExit) as left:
        cli._run(failing, program)
    assert isinstance(left.value.code, int)
    return left.value.code


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (UserError("a.jsonl:3: bad"), 2, "error: a.jsonl:3: bad"),
        (InputError("messages[2].role", "unknown_role", "got 'bot'"), 2, "error: messages[2].role: got 'bot'"),
        (
            MissingExtraError("ray", "ray"),
            2,
            'error: ray is not installed; it comes with the extra "ray": pip install "datumloom[ray]"',
        ),
        (OverTheLimit("7 rows rejected"), 3, "error: 7 rows rejected"),
        (OSError(errno.ENOSPC, "No space left on device", "x.arrow"), 74, "error: x.arrow: No space left on device"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (
            InternalError("columns disagree"),
            70,
            "internal error: InternalError: columns disagree (DATUMLOOM_TRACEBACK=1 shows where)",
        ),
        (KeyError("x"), 70, "internal error: KeyError: 'x' (DATUMLOOM_TRACEBACK=1 shows where)"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, BaseException) else "",
)
def test_an_error_is_one_line_and_a_code(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, line: str
) -> None:
    monkeypatch.delenv(cli.TRACEBACK_VARIABLE, raising=False)
    assert leave(monkeypatch, error) == code
    shown = capsys.readouterr()
    assert shown.out == ""
    assert shown.err.strip("\n") == line


def test_a_value_in_a_message_cannot_break_the_line_or_steer_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    leave(monkeypatch, UserError("got 'a\nb\x1b[31m\ud800é你'"))
    assert capsys.readouterr().err == "error: got 'a\\nb\\x1b[31m\\ud800é你'\n"


@pytest.mark.parametrize("error", [UserError("mine"), RuntimeError("ours")])
def test_the_traceback_comes_on_request(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception
) -> None:
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "1")
    leave(monkeypatch, error)
    shown = capsys.readouterr().err
    assert "Traceback (most recent call last)" in shown
    assert "in failing" in shown


def test_the_option_asks_for_the_traceback_too(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(cli.TRACEBACK_VARIABLE, "0")  # and takes back what the option sets
    monkeypatch.setitem(cli.COMMANDS, "render", cli.LazyCommand("datasets_io.no_such_module:command", ""))
    monkeypatch.setattr(sys, "argv", ["datumloom", "--traceback", "render"])
    with pytest.raises(SystemExit):
        cli.main()
    assert "Traceback (most recent call last)" in capsys.readouterr().err


def test_a_question_at_the_end_of_input_is_a_no(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert leave(monkeypatch, EOFError()) == 1
    assert capsys.readouterr().err.strip() == "aborted"


def test_a_command_sets_its_exit_code_through_the_context(monkeypatch: pytest.MonkeyPatch) -> None:
    assert leave(monkeypatch, click.exceptions.Exit(1)) == 1


def run(repository: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "cli.py", *arguments],
        capture_output=True,
        text=True,
        cwd=repository,
        env={**os.environ, **variables},
        check=False,
    )


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["docter"], "No such command 'docter'. Did you mean 'doctor'?"),
        (["--versoin"], "--version"),
        (["doctor", "--jsn"], "--json"),
        (["completion", "tcsh"], "'bash', 'zsh', 'fish'"),
    ],
)
def test_a_mistyped_name_is_an_error_with_the_nearest_one(repository: Path, arguments: list[str], hint: str) -> None:
    done = run(repository, *arguments)
    assert done.returncode == 2
    assert hint in done.stderr
    assert done.stdout == ""


def test_a_command_that_cannot_be_loaded_names_the_way_out(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(cli.COMMANDS, "render", cli.LazyCommand("datasets_io.no_such_module:command", ""))
    monkeypatch.setattr(sys, "argv", ["render-jsonl", "x"])
    with pytest.raises(SystemExit) as left:
        cli.render_jsonl()
    assert left.value.code == 2
    shown = capsys.readouterr().err
    assert "No module named 'datasets_io.no_such_module'" in shown
    assert "datumloom doctor" in shown


def test_a_reader_that_goes_away_is_no_error_message(repository: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "cli.py", "completion", "fish"],
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            cwd=repository,
            check=False,
        )
    finally:
        os.close(writing)
    assert done.returncode == 1
    assert done.stderr == ""


def test_ctrl_c_in_a_running_command(repository: Path) -> None:
    program = (
        "import click, cli, time\n"
        "@click.command()\n"
        "def waiting():\n"
        "    print('waiting', flush=True)\n"
        "    time.sleep(60)\n"
        "cli._run(waiting, 'datumloom')\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=repository
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "waiting\n"
        process.send_signal(signal.SIGINT)
        _, shown = process.communicate(timeout=30)
    assert process.returncode == 130
    assert shown.strip() == "interrupted"

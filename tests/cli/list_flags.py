"""Prints every command with its arguments and options, one per line; `flags.txt` keeps the list."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parents[2]


def lines() -> list[str]:
    """`COMMAND --option/--no-option METAVAR` and `COMMAND ARGUMENT`, in the order of the help text."""
    sys.path.insert(0, str(ROOT))
    import cli

    listed = _of("datumloom", cli.command)
    context = click.Context(cli.command, info_name="datumloom")
    for name, lazy in cli.COMMANDS.items():
        if find_spec(lazy.path.split(":")[0]) is None:
            continue
        command = cli.command.get_command(context, name)
        assert command is not None
        listed += _of(name, command)
    return listed


def _of(name: str, command: click.Command) -> list[str]:
    listed: list[str] = []
    for param in command.params:
        if isinstance(param, click.Option):
            spelled = "/".join([*param.opts, *param.secondary_opts])
            value = "" if param.is_flag or param.count else f" {param.type.name}"
            listed.append(f"{name} {spelled}{value}{' (several)' if param.multiple else ''}")
        else:
            listed.append(f"{name} {param.human_readable_name}{' (several)' if param.nargs == -1 else ''}")
    return listed or [name]


if __name__ == "__main__":
    print("\n".join(lines()))

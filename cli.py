"""The console scripts: which commands exist, and the one place where an error becomes a line and an exit code.

    0    done
    1    the command found something wrong (`verify`, `doctor`), a question was answered with no,
         or whoever reads the output closed it
    2    the user can mend it: an option, a file, a row
    3    more rejected rows than `--max-rejects` allows
    70   internal error
    74   the operating system refused: disk full, permission, missing file
    130  interrupted with Ctrl-C

A command's module is imported when the command is called, never to list it. A command sets its exit code with
`ctx.exit(code)`.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import TYPE_CHECKING, NamedTuple, NoReturn, cast

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

__all__ = ["COMMANDS", "LazyCommand", "LazyGroup", "command", "main", "render_jsonl", "train_from_shards"]

TRACEBACK_VARIABLE = "DATUMLOOM_TRACEBACK"
EXIT_DECLINED = 1
EXIT_USER = 2
EXIT_INTERNAL = 70
EXIT_SYSTEM = 74
EXIT_INTERRUPTED = 130


class LazyCommand(NamedTuple):
    """Where a command lives (`module:attribute`) and its line in the list of commands."""

    path: str
    summary: str


# In the order in which they are used.
COMMANDS: dict[str, LazyCommand] = {
    "render": LazyCommand("datasets_io.commands.render:command", "Conversations in, Arrow shards of datums out."),
    "verify": LazyCommand(
        "datasets_io.commands.verify:command", "Check the hashes of shards and render a sample again."
    ),
    "inspect": LazyCommand("datasets_io.commands.inspect:command", "Show tokens, weights and targets of a row."),
    "report": LazyCommand("datasets_io.commands.report:command", "Write an HTML page about shards."),
    "export": LazyCommand("trainer.commands.export:command", "Write shards as Parquet, an adapter as a model folder."),
    "train": LazyCommand("trainer.commands.train:command", "Train a LoRA adapter on shards."),
    "sample": LazyCommand("trainer.commands.sample:command", "Answer one prompt."),
    "chat": LazyCommand("trainer.commands.chat:command", "Talk to a model or a trained adapter."),
    "doctor": LazyCommand(
        "datasets_io.commands.doctor:command", "Say what is installed, what is missing, what is wrong."
    ),
    "completion": LazyCommand("datasets_io.commands.completion:command", "Print the completion script of a shell."),
}


class LoadError(click.ClickException):
    """A command's module cannot be imported."""

    exit_code = EXIT_USER


class LazyGroup(click.Group):
    """Lists the commands without importing them, and names the nearest one when a name is unknown."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002
        return _load(cmd_name) if cmd_name in COMMANDS else None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        name = args[0]
        if name not in COMMANDS and not name.startswith("-") and not ctx.resilient_parsing:
            near = difflib.get_close_matches(name, COMMANDS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            ctx.fail(f"No such command {name!r}.{hint}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002
        with formatter.section("Commands"):
            formatter.write_dl([(name, lazy.summary) for name, lazy in COMMANDS.items()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem[str]]:
        from click.shell_completion import CompletionItem

        names = [
            CompletionItem(name, help=lazy.summary) for name, lazy in COMMANDS.items() if name.startswith(incomplete)
        ]
        # Not the group's own: it would import every command for its help line.
        return names + click.Command.shell_complete(self, ctx, incomplete)


def _load(name: str) -> click.Command:
    module_name, attribute = COMMANDS[name].path.split(":")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        # Raised by an incomplete installation, or by another distribution that owns `renderers` or `datasets_io`.
        problem = LoadError(
            f"the command {name!r} cannot be loaded: {error}. "
            "`datumloom doctor` says what is missing; a fresh environment is the safe way out."
        )
        raise problem from error
    return cast("click.Command", getattr(module, attribute))


def _print_version(ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if not wanted or ctx.resilient_parsing:
        return
    from importlib.metadata import PackageNotFoundError, version

    try:
        found = version("datumloom")
    except PackageNotFoundError:
        found = "(not installed: a source tree)"
    click.echo(f"datumloom {found}")
    ctx.exit()


def _ask_for_traceback(_ctx: click.Context, _param: click.Parameter, wanted: bool) -> None:
    if wanted:
        # In the environment, so that worker processes see it too.
        os.environ[TRACEBACK_VARIABLE] = "1"


@click.group(cls=LazyGroup)
@click.option(
    "--version",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_print_version,
    help="Show the version and exit.",
)
@click.option(
    "--traceback",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_ask_for_traceback,
    help=f"Show the traceback of an error (also: {TRACEBACK_VARIABLE}=1).",
)
def command() -> None:
    """Chat conversations become Tinker datums in Arrow shards; nothing silent."""


def main() -> NoReturn:
    """`datumloom`. Raises SystemExit, always."""
    _run(command, "datumloom")


def render_jsonl() -> NoReturn:
    """`render-jsonl`: the same command as `datumloom render`. Raises SystemExit, always."""
    _run_alone("render", "render-jsonl")


def train_from_shards() -> NoReturn:
    """`train-from-shards`: the same command as `datumloom train`. Raises SystemExit, always."""
    _run_alone("train", "train-from-shards")


def _run_alone(name: str, program: str) -> NoReturn:
    """A command of ours as a program of its own."""
    try:
        found = _load(name)
    except click.ClickException as error:
        _end(error)
    _run(found, program)


def _run(entry: click.Command, program: str) -> NoReturn:
    try:
        result: object = entry.main(prog_name=program, standalone_mode=False, help_option_names=["-h", "--help"])
        sys.stdout.flush()
    except BrokenPipeError:
        # Nobody reads any more; the interpreter's own last flush must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_DECLINED)
    except (Exception, KeyboardInterrupt) as error:
        _end(error)
    # Without standalone mode click returns the code given to `ctx.exit`, and None otherwise.
    sys.exit(result if isinstance(result, int) else 0)


def _end(error: BaseException) -> NoReturn:
    """Print the error as a line on standard error and leave with its code."""
    if os.environ.get(TRACEBACK_VARIABLE, "0") not in ("", "0"):
        import traceback

        traceback.print_exception(error)
    if isinstance(error, click.Abort):
        # Click turns Ctrl-C and the end of input at a question into the same error.
        interrupted = isinstance(error.__context__, KeyboardInterrupt)
        _complain("interrupted" if interrupted else "aborted")
        sys.exit(EXIT_INTERRUPTED if interrupted else EXIT_DECLINED)
    if isinstance(error, KeyboardInterrupt):
        _complain("interrupted")
        sys.exit(EXIT_INTERRUPTED)
    if isinstance(error, click.ClickException):
        error.show()
        sys.exit(error.exit_code)
    # An error raised on purpose carries its code; asking for it needs no import of the package that defines it.
    code = getattr(error, "exit_code", None)
    if isinstance(code, int) and code != EXIT_INTERNAL:
        _complain(f"error: {error}")
        sys.exit(code)
    if isinstance(error, OSError) and error.errno is not None:
        place = f"{error.filename}: " if error.filename is not None else ""
        _complain(f"error: {place}{error.strerror}")
        sys.exit(EXIT_SYSTEM)
    _complain(f"internal error: {type(error).__name__}: {error} ({TRACEBACK_VARIABLE}=1 shows where)")
    sys.exit(EXIT_INTERNAL)


def _complain(text: str) -> None:
    """One line, whatever the message quotes: a value from the data may hold line breaks or terminal controls."""
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)
    click.echo(line, err=True)


if __name__ == "__main__":
    main()

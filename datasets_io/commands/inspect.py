"""`datumloom inspect`: the tokens of a row with their weights, roles and targets."""

from __future__ import annotations

import copy
import sys
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from .grouped import GroupedCommand, grouped_option
from .render import command as render_command

if TYPE_CHECKING:
    from ..lookup import Found

__all__ = ["command"]

_ROWS, _OUTPUT = "Which rows", "Output"
_RENDERING = (
    "mapping",
    "renderer",
    "renderer_options",
    "control_tokens",
    "backend",
    "train_on_what",
    "turns",
    "weights",
    "max_length",
    "max_length_policy",
)
_PAGE_ROWS = 20


@click.command(cls=GroupedCommand)
@click.argument("source", metavar="FILE|SHARDS")
@click.argument("row", metavar="[ROW]", required=False, type=click.IntRange(min=0))
@grouped_option(_ROWS, "--rows", metavar="FIRST:END", help="Several rows, END not among them, such as 0:20.")
@grouped_option(_ROWS, "--line", metavar="SOURCE:LINE", help="The rows of shards that came from this input line.")
@grouped_option(_ROWS, "--split", metavar="NAME", help="The split of shards that ROW counts in; train by default.")
@grouped_option(
    "Model and renderer",
    "--model",
    metavar="FOLDER|ID",
    help="Folder or hub id of the model; needed for a FILE, known for SHARDS unless the model has moved.",
)
@grouped_option(_OUTPUT, "--html", metavar="FILE", type=click.Path(), help="Write a page to look at in a browser.")
@grouped_option(_OUTPUT, "--plain", is_flag=True, help="A plain table, as when the output is no terminal.")
@grouped_option(_OUTPUT, "--json", "as_json", is_flag=True, help="One JSON object.")
@click.pass_context
def command(
    ctx: click.Context,
    source: str,
    row: int | None,
    rows: str | None,
    line: str | None,
    split: str | None,
    model: str | None,
    html: str | None,
    plain: bool,
    as_json: bool,
    **choices: Any,
) -> None:
    """Show tokens with their weights, roles and targets.

    Of SHARDS, ROW counts the rows of a split from 0. Of a FILE, it is the line, from 1 (the element of an array, the
    row of a table), rendered now as `render` would, with the same options.

    A page holds the first 20 rows unless it is told which; in it, next and previous go from one to the other.
    """
    from pathlib import Path

    from renderers import OptionError

    from ..lookup import line_number, render_views, row_range, shard_views
    from ..spec import RenderSpec

    if (row is not None) + (rows is not None) + (line is not None) > 1:
        raise OptionError("row: expected one of ROW, --rows and --line; got several")
    if (html is not None) + plain + as_json > 1:
        raise OptionError("html: expected one of --html, --plain and --json; got several")
    wanted = row_range(str(row)) if row is not None else row_range(rows) if rows is not None else None
    if Path(source).is_dir():
        _refuse_options(ctx, _RENDERING, "with a FILE; shards are rendered already")
        if wanted is None and html is not None:
            wanted = range(_PAGE_ROWS)
        found = shard_views(source, wanted, line_number(line) if line is not None else None, split, model)
    else:
        _refuse_options(ctx, ("line", "split"), "with SHARDS")
        if model is None:
            raise OptionError(f"model: expected --model FOLDER|ID to render {source} with; got none")
        lines = wanted or (range(1, 1 + _PAGE_ROWS) if html is not None else range(1, 2))
        found = render_views(source, RenderSpec(model=model, **choices), lines)
    _show(found, html, plain, as_json)


command.params[4:4] = [copy.copy(option) for option in render_command.params if option.name in _RENDERING]


def _refuse_options(ctx: click.Context, names: tuple[str, ...], where: str) -> None:
    """Options that would do nothing are refused."""
    from renderers import OptionError

    for param in ctx.command.params:
        if param.name in names and ctx.get_parameter_source(param.name) is ParameterSource.COMMANDLINE:
            raise OptionError(f"{param.opts[0]}: expected only {where}")


def _show(found: Found, html: str | None, plain: bool, as_json: bool) -> None:
    if as_json:
        import orjson

        value = {"title": found.title, "left_out": found.left_out, "rows": [view.to_json() for view in found.views]}
        click.echo(orjson.dumps(value, option=orjson.OPT_INDENT_2).decode())
        return
    from ..view_text import is_styled, plain_text, print_styled

    for line in found.left_out:
        click.echo(line, err=True)
    if html is not None:
        from ..inspect_page import inspect_page
        from ..pages import write_page

        size = write_page(html, inspect_page(found))
        click.echo(f"{html}: {len(found.views):,} rows, {size:,} bytes")
        return
    styled = not plain and is_styled(sys.stdout)
    for number, view in enumerate(found.views):
        if number:
            click.echo("\n")
        if styled:
            print_styled(view)
        else:
            click.echo(plain_text(view))

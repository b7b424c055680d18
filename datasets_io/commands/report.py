"""`datumloom report`: a page of statistics about shards."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("shards", metavar="SHARDS", type=click.Path())
@click.option(
    "--out",
    metavar="FILE",
    type=click.Path(),
    help="The page to write; by default beside SHARDS, as SHARDS-report.html.",
)
def command(shards: str, out: str | None) -> None:
    """Write an HTML page about a finished shard folder: totals, lengths, what was rejected and left out and why.

    The page is one file without a script; it opens from the disk and fetches nothing.
    """
    from pathlib import Path

    from ..pages import write_page
    from ..report_page import report_page
    from ..statistics import folder_statistics

    page = report_page(folder_statistics(shards))
    folder = Path(shards) if Path(shards).name not in ("", "..") else Path(shards).resolve()
    # Beside and not inside: a folder of shards holds what its run wrote and nothing else.
    target = out or str(folder.with_name(f"{folder.name}-report.html"))
    size = write_page(target, page)
    click.echo(f"{target}: {size:,} bytes")

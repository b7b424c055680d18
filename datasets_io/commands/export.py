"""`datumloom export`: shards as one Parquet file."""

from __future__ import annotations

import click

__all__ = ["command"]


@click.command()
@click.argument("shards", metavar="SHARDS", type=click.Path())
@click.option("--out", required=True, metavar="FILE", type=click.Path(), help="The Parquet file to write.")
@click.option("--split", default="train", show_default=True, metavar="NAME", help="Which split; all for every row.")
@click.option("--overwrite", is_flag=True, help="Replace FILE when it exists.")
def command(shards: str, out: str, split: str, overwrite: bool) -> None:
    """Write a split as Parquet in the form that Hugging Face trainers read.

    Columns: input_ids, labels (-100 where nothing is trained, not shifted), weights, source, line.
    """
    from pathlib import Path

    from renderers import OptionError

    from ..export import export_parquet

    if Path(out).exists() and not overwrite:
        raise OptionError(f"out: expected a file that does not exist yet; got {out} (--overwrite replaces it)")
    rows = export_parquet(shards, out, split=None if split == "all" else split)
    click.echo(f"{out}: {rows:,} rows, {Path(out).stat().st_size:,} bytes")

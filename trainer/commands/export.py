"""`datumloom export`: shards as one Parquet file, a trained adapter as a model folder or a packed checkpoint."""

from __future__ import annotations

from pathlib import Path

import click

__all__ = ["command"]


@click.command()
@click.argument("source", metavar="SHARDS|RUN", type=click.Path())
@click.option("--out", required=True, metavar="PATH", type=click.Path(), help="The file or folder to write.")
@click.option("--split", metavar="NAME", help="Of SHARDS: which split; all for every row.  [default: train]")
@click.option("--overwrite", is_flag=True, help="Of SHARDS: replace PATH when it exists.")
@click.option(
    "--as",
    "form",
    type=click.Choice(["merged", "archive"]),
    help="Of RUN: a model folder with the adapter merged in, or the checkpoint as tar.gz.  [default: merged]",
)
@click.option(
    "--dtype", type=click.Choice(["auto", "float32", "bfloat16"]), help="Of RUN, merged.  [default: the base's]"
)
@click.option("--checkpoint", metavar="PATH", help="Of RUN: a tinker:// path in it.  [default: the newest]")
def command(
    source: str,
    out: str,
    split: str | None,
    overwrite: bool,
    form: str | None,
    dtype: str | None,
    checkpoint: str | None,
) -> None:
    """Write SHARDS as Parquet, or the adapter of RUN, the folder of a training run, as others read it.

    Columns of the Parquet file: input_ids, labels (-100 where nothing is trained, not shifted), weights, source, line.
    """
    from renderers import OptionError

    if (Path(source) / "checkpoints.jsonl").exists():
        for name, value in (("--split", split), ("--overwrite", overwrite or None)):
            if value is not None:
                raise OptionError(f"{name}: expected with shards only; {source} is a training run")
        _export_adapter(Path(source), Path(out), form or "merged", dtype, checkpoint)
        return
    for name, value in (("--as", form), ("--dtype", dtype), ("--checkpoint", checkpoint)):
        if value is not None:
            raise OptionError(f"{name}: expected with a training run only; {source} has no checkpoints.jsonl")
    _export_shards(source, Path(out), split or "train", overwrite=overwrite)


def _export_shards(shards: str, out: Path, split: str, *, overwrite: bool) -> None:
    from datasets_io import export_parquet
    from renderers import OptionError

    if out.exists() and not overwrite:
        raise OptionError(f"out: expected a file that does not exist yet; got {out} (--overwrite replaces it)")
    rows = export_parquet(shards, out, split=None if split == "all" else split)
    click.echo(f"{out}: {rows:,} rows, {out.stat().st_size:,} bytes")


def _export_adapter(run: Path, out: Path, form: str, dtype: str | None, checkpoint: str | None) -> None:
    from renderers import OptionError

    from ..recipes import last_checkpoint
    from ..service import FolderCheckpointStore, export_archive, export_merged

    if form == "archive" and dtype is not None:
        raise OptionError("--dtype: expected with --as merged only; an archive holds the checkpoint as it is")
    record = last_checkpoint(run)
    path = checkpoint or record.sampler_path or record.state_path
    store = FolderCheckpointStore(run / "checkpoints")
    if form == "archive":
        export_archive(store, path, out)
        click.echo(f"{out}: {path}, {out.stat().st_size:,} bytes")
        return
    export_merged(store, path, out, dtype=dtype or "auto")
    size = sum(file.stat().st_size for file in out.iterdir())
    click.echo(f"{out}: the base with {path} merged in, {size:,} bytes")

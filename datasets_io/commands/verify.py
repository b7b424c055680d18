"""`datumloom verify`: hashes, totals, every row's invariants, and a sample rendered again."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..rerender import Rerenderer
    from ..verify import VerifyReport

__all__ = ["command"]

_FAULTS_SHOWN = 20


@click.command()
@click.argument("shards", metavar="SHARDS", type=click.Path())
@click.option(
    "--sample",
    type=click.IntRange(min=0),
    metavar="ROWS",
    default=64,
    show_default=True,
    help="Rows to render again from their inputs; 0 for none.",
)
@click.option("--model", metavar="FOLDER|ID", help="The model, when it is not where it was.")
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.pass_context
def command(ctx: click.Context, shards: str, sample: int, model: str | None, as_json: bool) -> None:
    """Check a finished shard folder against its manifest, and render a sample of its rows again.

    Rows whose input or model is gone or has changed are not rendered again; that is said, and is no fault. Exits 1
    when something is wrong.
    """
    from renderers import UserError

    from ..manifest import Manifest
    from ..rerender import Rerenderer
    from ..verify import verify_shards

    manifest = Manifest.load(shards)
    rerenderer, obstacle = None, ""
    if sample:
        try:
            rerenderer = Rerenderer(manifest, model)
        except UserError as error:
            if model is not None:
                raise
            obstacle = str(error)
    report = verify_shards(shards, rerender=rerenderer, sample=sample)
    missing = {} if rerenderer is None else rerenderer.missing
    if as_json:
        value = {"ok": report.ok, **asdict(report), "missing_inputs": missing, "model_obstacle": obstacle}
        click.echo(json.dumps(value, indent=2))
    else:
        click.echo("\n".join(_lines(shards, report, rerenderer, obstacle)))
    ctx.exit(0 if report.ok else 1)


def _lines(shards: str, report: VerifyReport, rerenderer: Rerenderer | None, obstacle: str) -> list[str]:
    lines = [str(fault) for fault in report.faults[:_FAULTS_SHOWN]]
    if report.num_faults > len(lines):
        lines.append(f"… and {report.num_faults - len(lines):,} more")
    lines.append(f"{shards}: {report.shards:,} shards, {report.rows:,} rows, {report.tokens:,} tokens checked")
    if rerenderer is not None:
        same = "" if report.num_faults else ", all the same"
        lines.append(f"rendered again: {report.rerendered:,} rows{same}; not possible for {report.not_rerendered:,}")
        lines += [f"  {name}: {why}" for name, why in rerenderer.missing.items()]
    elif obstacle:
        lines.append(f"rendered again: none, because {obstacle}")
    lines.append(f"{report.num_faults:,} faults" if report.num_faults else "no faults")
    return lines

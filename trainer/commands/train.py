"""`datumloom train`, also `train-from-shards`: a LoRA adapter from shards."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..recipes import TrainResult

__all__ = ["command"]


@click.command()
@click.argument("shards", metavar="SHARDS", type=click.Path())
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option("--model", metavar="FOLDER|ID", help="Base model: a folder or hub id; with --base-url a served name.")
@click.option("--out", metavar="FOLDER", type=click.Path(), help="Run folder.")
@click.option("--base-url", metavar="URL", help='Train on a server, not in this process; needs the extra "remote".')
@click.option("--config", "config_file", metavar="FILE", type=click.Path(), help="A TOML file with the same keys.")
@click.option("--overwrite", is_flag=True, help="Delete what an earlier run left in the folder first.")
@click.option("--json", "as_json", is_flag=True, help="The summary as one JSON object.")
@click.option("--quiet", is_flag=True, help="No progress, evaluations or samples on standard error.")
def command(
    shards: str,
    overrides: tuple[str, ...],
    model: str | None,
    out: str | None,
    base_url: str | None,
    config_file: str | None,
    overwrite: bool,
    as_json: bool,
    quiet: bool,
) -> None:
    """Train a LoRA adapter on a finished shard folder.

    Anything else is set by KEY=VALUE, such as epochs=2 lora.rank=16 learning_rate=1e-4 sample.every=50; an unknown key
    is refused. docs/training.md lists them all.

    Interrupted, the same command goes on from the last checkpoint, with the same rows in the same order; finished, it
    does nothing.
    """
    from renderers import OptionError

    from ..recipes import load_config, train_from_shards
    from .process_group import is_launched_as_group, process_group

    fixed = {"shards": shards, "model": model, "out": out, "base_url": base_url}
    config = load_config(config_file, overrides, fixed)
    if config.base_url is not None and is_launched_as_group():
        raise OptionError(f"base_url: expected none under torchrun, for the server trains; got {config.base_url!r}")
    with process_group() as leads:
        if not leads:
            return
        try:
            result = train_from_shards(config, overwrite=overwrite, quiet=quiet)
        except KeyboardInterrupt:
            click.echo(f"{config.out}: stopped; the same command goes on from the last checkpoint", err=True)
            raise
        click.echo(_summary_json(result) if as_json else _summary_text(result))


def _summary_json(result: TrainResult) -> str:
    import json

    return json.dumps(
        {
            "out": str(result.folder),
            "was_finished": result.was_finished,
            "steps": result.steps,
            "tokens": result.tokens,
            "state_path": result.checkpoint.state_path,
            "sampler_path": result.checkpoint.sampler_path,
            "metrics": result.metrics,
        }
    )


def _summary_text(result: TrainResult) -> str:
    if result.was_finished:
        return f"{result.folder}: finished already, {result.steps:,} steps; nothing to do"
    shown = [
        f"{name} {result.metrics[name]:.4g}"
        for name in ("train_mean_nll", "test/nll", "test/bits_per_byte", "dpo_loss", "test/dpo_loss", "margin")
        if name in result.metrics
    ]
    return (
        f"{result.folder}: {result.steps:,} steps, {result.tokens:,} tokens; {', '.join(shown)}\n"
        f"adapter: {result.checkpoint.sampler_path}\n"
        f"report: {result.folder / 'report.html'}"
    )

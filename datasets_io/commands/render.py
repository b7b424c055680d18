"""`datumloom render`, also `render-jsonl`: conversations in, Arrow shards of datums out."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from .grouped import GroupedCommand, grouped_option

if TYPE_CHECKING:
    from ..build import BuildOutcome
    from ..spec import RenderSpec

__all__ = ["command"]

_INPUT, _MODEL, _TRAINING = "Input", "Model and renderer", "What is trained"
_LENGTH, _OUTPUT, _RUN = "Length", "Output", "The run"
_TRAIN_ON = (
    "last_assistant_message",
    "last_assistant_turn",
    "all_assistant_messages",
    "all_messages",
    "all_tokens",
    "all_user_and_system_messages",
    "customized",
)


def _options(_ctx: click.Context, _param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, Any]:
    """`name=value` pairs; a value that is JSON is that (true, 3, "x"), else it is text."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, text = pair.partition("=")
        if not equals or not name:
            raise click.BadParameter(f"expected name=value; got {pair!r}")
        if name in options:
            raise click.BadParameter(f"expected every name once; got {name!r} twice")
        try:
            options[name] = json.loads(text)
        except ValueError:
            options[name] = text
    return options


@click.command(cls=GroupedCommand)
@click.argument("inputs", metavar="INPUT...", nargs=-1, required=True)
@grouped_option(
    _INPUT, "--map", "mapping", metavar="ROLE=COLUMN,…", help="Columns of other names: user=question,assistant=answer."
)
@grouped_option(_INPUT, "--dedup", is_flag=True, help="Leave out conversations that came before.")
@grouped_option(
    _INPUT,
    "--max-rejects",
    metavar="N|P%",
    default="0",
    show_default=True,
    help="Rejected rows that are acceptable; with more the exit code is 3. Everything is written all the same.",
)
@grouped_option(_INPUT, "--strict", is_flag=True, help="Stop at the first rejected row.")
@grouped_option(
    _MODEL,
    "--model",
    required=True,
    metavar="FOLDER|ID",
    help="Folder or hub id of the model: its tokenizer and chat template.",
)
@grouped_option(
    _MODEL,
    "--renderer",
    metavar="NAME",
    default="auto",
    show_default=True,
    help="A renderer by name; auto lets the model's chat template decide.",
)
@grouped_option(
    _MODEL,
    "--option",
    "renderer_options",
    metavar="NAME=VALUE",
    multiple=True,
    callback=_options,
    help="An option of the renderer or template, such as thinking=false. Repeatable.",
)
@grouped_option(
    _MODEL,
    "--control-tokens",
    type=click.Choice(["text", "parse", "reject"]),
    default="text",
    show_default=True,
    help="What a control token typed inside content becomes: text, the token itself, or a reject.",
)
@grouped_option(
    _MODEL,
    "--backend",
    type=click.Choice(["auto", "fastokens", "tokenizers"]),
    default="auto",
    show_default=True,
    help="The encoder; auto takes the fast one where it gives the same ids.",
)
@grouped_option(
    _TRAINING,
    "--train-on-what",
    type=click.Choice(_TRAIN_ON),
    metavar="MODE",
    default="all_assistant_messages",
    show_default=True,
    help=f"Which tokens get a weight: {', '.join(_TRAIN_ON)}.",
)
@grouped_option(
    _TRAINING,
    "--turns",
    type=click.Choice(["auto", "single", "split", "drop"]),
    default="auto",
    show_default=True,
    help="How turns share examples: auto splits only where the template shows an earlier turn differently later; "
    "single never, split always; drop leaves out conversations that auto would split.",
)
@grouped_option(
    _TRAINING,
    "--weights",
    type=click.Choice(["none", "mean"]),
    default="none",
    show_default=True,
    help="mean: the weights of each example sum to 1.",
)
@grouped_option(_LENGTH, "--max-length", type=click.IntRange(min=2), metavar="TOKENS", help="Longest example.")
@grouped_option(
    _LENGTH,
    "--max-length-policy",
    type=click.Choice(["drop", "keep-start", "keep-end", "drop-oldest-turns", "split"]),
    default="drop",
    show_default=True,
    help="What becomes of longer ones. Every case is counted.",
)
@grouped_option(_OUTPUT, "--out", required=True, metavar="FOLDER", type=click.Path(), help="Folder for the shards.")
@grouped_option(_OUTPUT, "--overwrite", is_flag=True, help="Delete what an earlier run left in the folder first.")
@grouped_option(
    _OUTPUT,
    "--eval-fraction",
    type=click.FloatRange(0, 1, max_open=True),
    metavar="SHARE",
    default=0.0,
    show_default=True,
    help="Share of rows held out into the split eval, by each row's own hash: the same rows in every run.",
)
@grouped_option(_OUTPUT, "--codec", type=click.Choice(["lz4", "zstd"]), help="Compress the shards' buffers.")
@grouped_option(
    _OUTPUT,
    "--block-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=4 << 20,
    show_default=True,
    help="Input per block; a block becomes a shard, and is what is done again after an interruption.",
)
@grouped_option(
    _OUTPUT,
    "--max-row-bytes",
    type=click.IntRange(min=1),
    metavar="BYTES",
    default=64 << 20,
    show_default=True,
    help="A longer row is rejected.",
)
@grouped_option(
    _RUN,
    "--workers",
    type=click.IntRange(min=0),
    metavar="N",
    default=0,
    show_default=True,
    help="Worker processes; 0 works in this one. The result is the same.",
)
@grouped_option(
    _RUN,
    "--engine",
    type=click.Choice(["local", "ray"]),
    default="local",
    show_default=True,
    help='Where workers run; ray needs the extra "ray". The result is the same.',
)
@grouped_option(_RUN, "--json", "as_json", is_flag=True, help="The summary as one JSON object.")
@grouped_option(_RUN, "--quiet", is_flag=True, help="No progress.")
def command(
    inputs: tuple[str, ...],
    out: str,
    workers: int,
    engine: Any,
    overwrite: bool,
    strict: bool,
    dedup: bool,
    max_rejects: str,
    as_json: bool,
    quiet: bool,
    **choices: Any,
) -> None:
    """Render conversations into training shards.

    INPUT is a file (.jsonl, .json, also .gz or .zst; .parquet, .arrow), a folder, a glob, a dataset (hf:org/name), or
    - for standard input. Every row's format is detected; bad rows go whole into rejects.jsonl and the others go on.

    Interrupted, the same command goes on where it was; finished, it does nothing.
    """
    from ..build import check_rejects, run_build
    from ..progress import Progress
    from ..sources import expand_inputs, input_size
    from ..spec import RenderSpec
    from ..summary import summary_json, summary_text

    spec: RenderSpec = RenderSpec(**choices)
    total = input_size(expand_inputs(inputs))
    outcome: BuildOutcome
    try:
        with Progress(total, "bytes", "render", quiet=quiet) as progress:
            outcome = run_build(
                inputs,
                out,
                spec,
                workers=workers,
                overwrite=overwrite,
                strict=strict,
                max_rejects=max_rejects,
                dedup=dedup,
                engine=engine,
                progress=progress,
            )
    except KeyboardInterrupt:
        click.echo(f"{out}: stopped; the same command goes on from here", err=True)
        raise
    click.echo(summary_json(outcome, out) if as_json else summary_text(outcome, out))
    check_rejects(outcome.manifest, max_rejects)

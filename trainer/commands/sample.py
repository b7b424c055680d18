"""`datumloom sample`: one answer."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from .speaker import speaker_options

if TYPE_CHECKING:
    from renderers import Message

__all__ = ["command"]


@click.command()
@click.argument("model", metavar="MODEL")
@click.argument("prompt", required=False)
@speaker_options
@click.option("--json", "as_json", is_flag=True, help="The parsed message as one JSON object.")
def command(
    model: str,
    prompt: str | None,
    as_json: bool,
    system: str | None,
    max_tokens: int,
    temperature: float,
    top_p: float,
    top_k: int,
    seed: int | None,
    tools: str | None,
    run: str | None,
    base_url: str | None,
    renderer: str,
    device: str | None,
) -> None:
    """Answer PROMPT (or standard input) with MODEL, rendered and parsed as the model's own chat template has it.

    MODEL is a base model (folder or hub id), a run folder (its newest checkpoint), or tinker://RUN/…/NAME of a
    checkpoint in the folder that --run names, or on the server of --base-url.
    """
    import json

    from renderers import UserError

    from .speaker import open_speaker, opening, read_tools, show, speaking_options

    text = sys.stdin.read() if prompt is None else prompt
    if not text.strip():
        raise UserError("PROMPT: expected text, as an argument or on standard input; got none")
    declared = read_tools(tools)
    options = speaking_options(max_tokens, temperature, top_p, top_k, seed)
    with open_speaker(model, run, base_url, renderer, device) as speaker:
        messages: list[Message] = [*opening(system), {"role": "user", "content": text.removesuffix("\n")}]
        if not as_json:
            show(speaker.stream(messages, options, declared))
            return
        answer = speaker.answer(messages, options, declared, in_portions=True)
        click.echo(
            json.dumps(
                {"message": answer.message, "termination": str(answer.termination), "tokens": answer.tokens},
                ensure_ascii=False,
            )
        )

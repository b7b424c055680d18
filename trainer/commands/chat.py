"""`datumloom chat`: a conversation, line by line."""

from __future__ import annotations

import sys
from typing import Any, TextIO

import click

from .speaker import speaker_options

__all__ = ["command"]

_QUIT, _RESET = "/quit", "/reset"


@click.command()
@click.argument("model", metavar="MODEL")
@speaker_options
def command(
    model: str,
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
    """Talk to MODEL, which is named as for sample. A line is a message; /reset begins again, /quit ends.

    Standard input may be a pipe: every line of it is answered.
    """
    from renderers import UserError

    from .speaker import open_speaker, opening, read_tools, show, speaking_options

    declared = read_tools(tools)
    options = speaking_options(max_tokens, temperature, top_p, top_k, seed)
    with open_speaker(model, run, base_url, renderer, device) as speaker:
        history: list[Any] = opening(system)
        while (line := _next_line(sys.stdin)) is not None:
            if line == _RESET:
                history = opening(system)
                click.secho("[a new conversation]", err=True, dim=True)
            elif line:
                question: Any = {"role": "user", "content": line}
                try:
                    reply = show(speaker.stream([*history, question], options, declared))
                except UserError as error:
                    # A prompt that has become too long, say: the conversation so far stays.
                    click.secho(f"error: {error}", err=True)
                    continue
                history += [question, reply]


def _next_line(stdin: TextIO) -> str | None:
    """A line without white space around it; None at the end of input and at `/quit`."""
    if stdin.isatty():
        click.secho("> ", nl=False, err=True)
    line = stdin.readline()
    return None if not line or line.strip() == _QUIT else line.strip()

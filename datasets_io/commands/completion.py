"""`datumloom completion`: the script that makes a shell complete commands and options."""

from __future__ import annotations

import click

__all__ = ["command"]

PROGRAMS = ("datumloom", "render-jsonl")


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(shell: str) -> None:
    """Print the completion script of a SHELL, to be read when it starts.

    \b
    bash  eval "$(datumloom completion bash)"       in ~/.bashrc
    zsh   eval "$(datumloom completion zsh)"        in ~/.zshrc, after compinit
    fish  datumloom completion fish | source        in ~/.config/fish/config.fish
    """
    from click.shell_completion import get_completion_class

    completion_class = get_completion_class(shell)
    assert completion_class is not None, "click knows the three shells"
    root = click.get_current_context().find_root().command
    for program in PROGRAMS:
        variable = f"_{program.replace('-', '_').upper()}_COMPLETE"
        click.echo(completion_class(root, {}, program, variable).source())

"""What `sample` and `chat` share: which weights, how to sample, and how deltas look on a terminal."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click

if TYPE_CHECKING:
    from renderers import Delta, Message

    from ..recipes import Speaker, SpeakingOptions

__all__ = ["open_speaker", "opening", "read_tools", "show", "speaker_options", "speaking_options"]

_F = TypeVar("_F", bound=Callable[..., Any])
_TINKER = "tinker://"
_OPTIONS = (
    click.option("--system", metavar="TEXT", help="A system message in front."),
    click.option("--max-tokens", type=click.IntRange(min=1), default=256, show_default=True, help="Longest answer."),
    click.option(
        "--temperature", type=click.FloatRange(min=0), default=0.7, show_default=True, help="0: the likeliest token."
    ),
    click.option("--top-p", type=click.FloatRange(0, 1, min_open=True), default=1.0, show_default=True),
    click.option("--top-k", type=int, default=-1, show_default=True, help="-1: all."),
    click.option("--seed", type=int, help="The same seed gives the same answer."),
    click.option("--tools", metavar="FILE", type=click.Path(), help="A JSON file: a list of tools in OpenAI's form."),
    click.option("--run", metavar="FOLDER", type=click.Path(), help="Run folder that a tinker:// MODEL lies in."),
    click.option("--base-url", metavar="URL", help='Sample on a server; needs the extra "remote".'),
    click.option("--renderer", metavar="NAME", default="auto", show_default=True, help="As for render."),
    click.option("--device", metavar="NAME", help="cpu, cuda or cuda:N; CUDA where there is one by default."),
)


def speaker_options(command: _F) -> _F:
    """The options of both commands."""
    for option in reversed(_OPTIONS):
        option(command)  # notes itself on the function
    return command


def speaking_options(
    max_tokens: int, temperature: float, top_p: float, top_k: int, seed: int | None
) -> SpeakingOptions:
    """As the recipes know them."""
    from ..recipes import SpeakingOptions

    return SpeakingOptions(max_tokens, temperature, top_p, top_k, seed)


@contextmanager
def open_speaker(
    model: str, run: str | None, base_url: str | None, renderer: str, device: str | None
) -> Generator[Speaker]:
    """The weights that MODEL names: a base model, a run folder (its newest checkpoint), or a checkpoint's path.

    Raises:
        UserError: there are no such weights.
    """
    from renderers import OptionError, get_renderer

    from ..clients import connect
    from ..recipes import Speaker, last_checkpoint, open_wire

    run = model if (Path(model) / "checkpoints.jsonl").exists() else run
    path: str | None = model if model.startswith(_TINKER) else None
    if path is not None and run is None and base_url is None:
        raise OptionError(f"--run: expected the run folder that {path} lies in; got none")
    base, checkpoint_dir, tokenizer = model, None, model
    if run is not None:
        settings = _run_settings(Path(run))
        base, base_url = str(settings["model"]), base_url or settings.get("base_url")
        tokenizer = str(settings.get("tokenizer") or base)
        path = path or _state(last_checkpoint(run))
        checkpoint_dir = Path(run) / "checkpoints"
    wire = open_wire(base_url)
    options: dict[str, Any] = {} if base_url else {"device": device, "checkpoint_dir": checkpoint_dir}
    with connect(base_url, **options) as service:
        client = service.create_sampling_client(model_path=path, base_model=None if path else base)
        if path is not None and run is None:
            tokenizer = client.get_base_model()
        yield Speaker(client, get_renderer(renderer, tokenizer), wire)


def _state(record: Any) -> str:
    """Weights for sampling where they were saved, else those of the state."""
    return record.sampler_path or record.state_path


def _run_settings(folder: Path) -> dict[str, Any]:
    import json

    from renderers import UserError

    path = folder / "config.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        raise UserError(f"{folder}: expected the folder of a training run; its config.json cannot be read") from None


def opening(system: str | None) -> list[Message]:
    """How every conversation starts."""
    return [{"role": "system", "content": system}] if system else []


def read_tools(file: str | None) -> list[dict[str, Any]] | None:
    """Tool declarations; `UserError` when the file is no JSON list."""
    import json

    from renderers import UserError

    if file is None:
        return None
    try:
        tools = json.loads(Path(file).read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: expected a JSON file of tools; {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{file}: expected JSON; {error}") from None
    if not isinstance(tools, list):
        raise UserError(f"{file}: expected a list of tools; got {type(tools).__name__}")
    return tools


def show(deltas: Iterable[Delta]) -> Message:
    """Print an answer as it comes: text plain, reasoning dim, tool calls by name; gives the message.

    Text goes to standard output; reasoning, calls and how a turn ended (when it did not end itself) to standard error.
    """
    from renderers import (
        ReasoningDelta,
        ResponseEnd,
        TextDelta,
        ToolCallArguments,
        ToolCallEnd,
        ToolCallStart,
        UserError,
    )

    for delta in deltas:
        match delta:
            case TextDelta(text):
                click.echo(text, nl=False)
            case ReasoningDelta(text):
                click.secho(text, nl=False, err=True, dim=True)
            case ToolCallStart(_, name):
                click.secho(f"\n[{name} ", nl=False, err=True, bold=True)
            case ToolCallArguments(_, text):
                click.secho(text, nl=False, err=True)
            case ToolCallEnd(_, call, raw, reason):
                click.secho("]" if call is not None else f"[no tool call: {reason}: {raw!r}]", err=True, bold=True)
            case ResponseEnd(message, termination):
                click.echo()
                if not termination.is_clean:
                    click.secho(f"[ended by {termination}]", err=True, dim=True)
                return message
    raise UserError("expected an answer; got nothing")

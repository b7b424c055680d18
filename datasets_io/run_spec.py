"""What a run is made from, found out before its first row: tokenizer, template, renderer, options, inputs."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from renderers import Renderer, UserError

from .manifest import InputFile, Libraries, RendererInfo, RunSpec
from .sources import Source, input_fingerprint
from .spec import RenderSpec

__all__ = ["InputGuard", "input_files", "run_spec_of", "template_hash_of"]


def run_spec_of(spec: RenderSpec, renderer: Renderer, inputs: list[InputFile], *, dedup: bool) -> RunSpec:
    """The `RunSpec` of a run.

    The model is in it by what it holds (tokenizer, template, special and stop tokens) and not by its name: a folder
    may move.
    """
    tokenizer = renderer.tokenizer
    options: dict[str, Any] = {
        **spec.options(),
        "dedup": dedup,
        "special_tokens": tokenizer.special_tokens,
        "stop_tokens": list(tokenizer.generation_stop_tokens),
    }
    return RunSpec(
        renderer=RendererInfo(
            name=renderer.name,
            options=renderer.options,
            settings={
                "train_on_what": spec.train_on_what.value,
                "turns": spec.turns,
                "control_tokens": spec.control_tokens,
            },
        ),
        tokenizer_sha256=tokenizer.fingerprint,
        template_hash=template_hash_of(renderer),
        libraries=Libraries.installed(),
        inputs=inputs,
        options=options,
    )


def template_hash_of(renderer: Renderer) -> str:
    """Hash of the template that a renderer reproduces, else of the model's; empty when there is neither."""
    template = renderer.tokenizer.chat_template
    if renderer.template_hash or template is None:
        return renderer.template_hash or ""
    text = template if isinstance(template, str) else repr(sorted(template.items()))
    return hashlib.sha256(text.encode()).hexdigest()


def input_files(sources: Sequence[Source], *, known: bool) -> list[InputFile]:
    """Name, size and hash of every input.

    Args:
        sources: the inputs.
        known: whether inputs that can be read only once have been read; before, they have no size and hash.
    """
    for source in sources:
        try:
            source.name.encode("utf-8")
        except UnicodeEncodeError:
            raise UserError(f"inputs: expected file names in UTF-8; got {source.name!r}") from None
    return [
        InputFile(**input_fingerprint(source))
        if known or not source.reads_once
        else InputFile(path=source.name, size=0, sha256="")
        for source in sources
    ]


class InputGuard:
    """Notices that a file changed between being hashed and having been read."""

    def __init__(self, sources: Sequence[Source]) -> None:
        self._before = {source.name: _stamp(source) for source in sources}
        self._sources = sources

    def check(self) -> None:
        """Raises UserError naming the file."""
        for source in self._sources:
            if _stamp(source) != self._before[source.name]:
                raise UserError(f"{source.name}: expected a file that stays as it is; it changed while it was read")


def _stamp(source: Source) -> tuple[int, int] | None:
    if source.path is None or source.reads_once or not source.path.is_file():
        return None
    status = source.path.stat()
    return status.st_size, status.st_mtime_ns

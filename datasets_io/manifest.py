"""`manifest.json`: what a finished shard folder holds and what it was made from. Written last; no times in it."""

from __future__ import annotations

import hashlib
import importlib.metadata
import os
import platform
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import numpy.typing as npt
import orjson
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from renderers import UserError

from .atomic import write_json
from .schema import FORMAT_VERSION

__all__ = [
    "LENGTH_BIN_EDGES",
    "MANIFEST_NAME",
    "Codec",
    "Histogram",
    "InputFile",
    "Libraries",
    "Manifest",
    "Notes",
    "RendererInfo",
    "RunSpec",
    "ShardInfo",
    "SourceCounts",
    "Totals",
    "explain_difference",
]

MANIFEST_NAME = "manifest.json"

Codec = Literal["lz4", "zstd"]
"""Compression of a shard's buffers."""

LENGTH_BIN_EDGES: tuple[int, ...] = (0, 1, 16, *(2**k * step // 2 for k in range(5, 21) for step in (2, 3)), 2**21)
"""Left edges of the length bins: 0, 1, 16, then each power of two and the middle to the next (32, 48, 64, 96, 128, …,
2**20, 3 * 2**19, 2**21). Bin i holds edges[i] <= length < edges[i + 1]; the last is open."""

Count = Annotated[int, Field(ge=0)]


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class RendererInfo(_Model):
    """Which renderer, its own options, and the `RenderSettings` it ran with."""

    name: str
    options: dict[str, Any] = {}
    settings: dict[str, Any] = {}


class Libraries(_Model):
    """Versions in use; None where not installed. `numpy` and `python` are noted, the others can change results."""

    datumloom: str | None
    tokenizers: str | None
    fastokens: str | None
    pyarrow: str | None
    numpy: str | None
    python: str

    @classmethod
    def installed(cls) -> Libraries:
        names = ("datumloom", "tokenizers", "fastokens", "pyarrow", "numpy")
        return cls(**{name: _version(name) for name in names}, python=platform.python_version())


class InputFile(_Model):
    """One input: its name as given (rows carry it as `source`), its size in bytes, its sha256."""

    path: str
    size: Count
    sha256: str


class RunSpec(_Model):
    """Everything that decides the result of a run; known before its first row is rendered."""

    format_version: int = FORMAT_VERSION
    renderer: RendererInfo
    tokenizer_sha256: str
    template_hash: str
    libraries: Libraries
    inputs: list[InputFile]
    options: dict[str, Any] = {}

    @property
    def fingerprint(self) -> str:
        """sha256 (hex) of all that must match for a run to be resumed or found unchanged.

        That is everything here but the versions of numpy and Python, which change neither ids nor bytes.
        """
        return hashlib.sha256(orjson.dumps(self.deciding(), option=orjson.OPT_SORT_KEYS)).hexdigest()

    def deciding(self) -> dict[str, Any]:
        """What `fingerprint` is the hash of, as JSON values."""
        return self.model_dump(mode="json", exclude={"libraries": {"numpy", "python"}})


class ShardInfo(_Model):
    """One shard file: its name relative to the folder, its buffer compression, its size in bytes, its sha256."""

    file: str
    split: str
    codec: Codec | None = None
    rows: Count
    tokens: Count
    trained_tokens: Count
    size: Count
    sha256: str


class Totals(_Model):
    """read = accepted + rejected, in input rows; the others count what was written, over all splits."""

    read: Count
    accepted: Count
    rejected: Count
    rows: Count
    tokens: Count
    trained_tokens: Count


class Histogram(_Model):
    """Counts per bin of `LENGTH_BIN_EDGES`; adding two adds their counts."""

    edges: list[int] = list(LENGTH_BIN_EDGES)
    counts: list[Count] = [0] * len(LENGTH_BIN_EDGES)

    @classmethod
    def of(cls, lengths: npt.NDArray[Any]) -> Histogram:
        bins = np.searchsorted(np.array(LENGTH_BIN_EDGES), lengths, side="right") - 1
        return cls(counts=np.bincount(bins, minlength=len(LENGTH_BIN_EDGES)).tolist())

    def __add__(self, other: Histogram) -> Histogram:
        return Histogram(counts=[a + b for a, b in zip(self.counts, other.counts, strict=True)])


class SourceCounts(_Model):
    """One input's rows: read = accepted + rejected, and the accepted ones by format."""

    read: Count = 0
    accepted: Count = 0
    rejected: Count = 0
    formats: dict[str, Count] = {}


class Notes(_Model):
    """Worth knowing, but deciding nothing.

    Attributes:
        model: as it was named.
        renderer_choice: why this renderer was taken, in words.
        encoder: what encoded the text.
        encoder_fallback: why that was not the fast encoder; None where it was, or was not wanted.
    """

    model: str = ""
    renderer_choice: str = ""
    encoder: str = ""
    encoder_fallback: str | None = None


class Manifest(_Model):
    """The whole of `manifest.json`.

    Attributes:
        run: what it was made from.
        shards: in order; their splits may alternate.
        totals: of the whole folder.
        tokens_histogram, trained_histogram: examples by number of positions and of trained positions.
        rejects: input rows rejected, by reason code.
        drops: conversations, turns or examples dropped after rendering, by reason.
        events: what happened in rows that were kept, by name.
        formats: input rows by detected format.
        sources: the same counts per input that gave rows, by its name.
        ignored_fields: keys of rows and messages that no template knows, and how often; the rarest under `(others)`.
        notes: what is worth knowing besides.
    """

    run: RunSpec
    shards: list[ShardInfo]
    totals: Totals
    tokens_histogram: Histogram = Histogram()
    trained_histogram: Histogram = Histogram()
    rejects: dict[str, Count] = {}
    drops: dict[str, Count] = {}
    events: dict[str, Count] = {}
    formats: dict[str, Count] = {}
    sources: dict[str, SourceCounts] = {}
    ignored_fields: dict[str, Count] = {}
    notes: Notes = Notes()

    @property
    def fingerprint(self) -> str:
        """`RunSpec.fingerprint` of the run that made the folder."""
        return self.run.fingerprint

    @property
    def splits(self) -> list[str]:
        return sorted({shard.split for shard in self.shards})

    @classmethod
    def load(cls, folder: str | os.PathLike[str]) -> Manifest:
        """The manifest of a finished folder.

        Raises:
            UserError: no folder, no manifest (an unfinished run), not JSON, an unknown format version, a bad field.
        """
        path = Path(folder) / MANIFEST_NAME
        try:
            data = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            raise UserError(
                f"{folder}: expected a finished shard folder; got one without {MANIFEST_NAME}"
                if Path(folder).is_dir()
                else f"{folder}: expected a folder of shards; there is none"
            ) from None
        try:
            value = orjson.loads(data)
        except orjson.JSONDecodeError as error:
            raise UserError(f"{path}: expected JSON; {error}") from None
        version = _dig(value, "run", "format_version")
        if version != FORMAT_VERSION:
            raise UserError(f"{path}: run.format_version: expected {FORMAT_VERSION}; got {version!r}")
        try:
            return cls.model_validate(value)
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(str(part) for part in first["loc"])
            raise UserError(f"{path}: {place}: {first['msg']}; got {first['input']!r:.80}") from None

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write `manifest.json`, whole or not at all; the last step of a run."""
        write_json(Path(folder) / MANIFEST_NAME, self.model_dump(mode="json"))


def explain_difference(old: RunSpec | Manifest, new: RunSpec | Manifest) -> list[str]:
    """What changed between two runs, one line each, such as `template_hash: abc -> def`; [] when they match.

    Looks at exactly what `fingerprint` covers.
    """
    before, after = (dict(_leaves(_spec(run).deciding())) for run in (old, new))
    return [
        f"{name}: {before.get(name, 'none')} -> {after.get(name, 'none')}"
        for name in dict.fromkeys([*before, *after])
        if before.get(name, "none") != after.get(name, "none")
    ]


def _spec(run: RunSpec | Manifest) -> RunSpec:
    return run.run if isinstance(run, Manifest) else run


def _leaves(value: Any, place: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of every leaf, an empty mapping inside an option being one."""
    if isinstance(value, Mapping):
        if not value and "." in place:
            yield place, value
        for key, inner in value.items():
            yield from _leaves(inner, f"{place}.{key}" if place else str(key))
    elif place == "inputs":
        for i, item in enumerate(value):
            yield from ((f"inputs[{i}].{key}", inner) for key, inner in item.items())
    else:
        yield place, value


def _dig(value: Any, *keys: str) -> Any:
    for key in keys:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None

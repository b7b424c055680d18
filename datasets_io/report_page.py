"""The report: statistics of a shard folder as one HTML file that needs no script."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from .manifest import Manifest
from .pages import render_page
from .reasons import EXPLANATIONS
from .statistics import FolderStatistics
from .visible import printable

__all__ = ["report_page"]


@dataclass(frozen=True, slots=True)
class _Reason:
    """A counted reason with its explanation, its share of the largest count, and first places."""

    name: str
    explanation: str
    count: int
    share: float
    places: list[str]


class _Tile(NamedTuple):
    label: str
    value: str
    note: str


class _Input(NamedTuple):
    path: str
    size: str
    read: int
    accepted: int
    rejected: int
    formats: str


def report_page(statistics: FolderStatistics) -> str:
    """The page."""
    manifest = statistics.manifest
    return render_page(
        "report.html.j2",
        styles=["page.css", "report.css"],
        title=printable(str(statistics.folder)),
        manifest=manifest,
        tiles=_tiles(statistics),
        making=_making(manifest),
        options=_options(manifest),
        inputs=_inputs(manifest),
        splits=statistics.splits,
        formats=_reasons(manifest.formats),
        rejects=_reasons(manifest.rejects, statistics.reject_places),
        drops=_reasons(manifest.drops, statistics.drop_places),
        events=_reasons(manifest.events),
        ignored=_reasons(manifest.ignored_fields),
        libraries={name: version or "not installed" for name, version in manifest.run.libraries.model_dump().items()},
        size=byte_size(sum(shard.size for shard in manifest.shards)),
        byte_size=byte_size,
    )


def byte_size(number: int) -> str:
    """Bytes for people: `1.2 MB`."""
    value, units = float(number), ["bytes", "kB", "MB", "GB", "TB"]
    while value >= 1000 and len(units) > 1:
        value /= 1000
        units.pop(0)
    return f"{value:,.0f} {units[0]}" if units[0] == "bytes" else f"{value:,.1f} {units[0]}"


def _tiles(statistics: FolderStatistics) -> list[_Tile]:
    totals = statistics.manifest.totals
    return [
        _Tile("Input rows", f"{totals.read:,}", "read"),
        _Tile("Accepted", f"{totals.accepted:,}", _percent(totals.accepted, totals.read)),
        _Tile("Rejected", f"{totals.rejected:,}", _percent(totals.rejected, totals.read)),
        _Tile("Examples", f"{totals.rows:,}", "rows of the shards"),
        _Tile("Tokens", f"{totals.tokens:,}", "positions the model reads"),
        _Tile("Trained tokens", f"{totals.trained_tokens:,}", f"{statistics.trained_share:.1%} of all"),
    ]


def _percent(part: int, whole: int) -> str:
    return f"{part / whole:.1%} of the rows" if whole else "of no rows"


def _making(manifest: Manifest) -> dict[str, str]:
    run, notes = manifest.run, manifest.notes
    encoder = notes.encoder + (f", because {notes.encoder_fallback}" if notes.encoder_fallback else "")
    facts = {
        "Model": notes.model,
        "Renderer": run.renderer.name,
        "Why this one": notes.renderer_choice,
        "Encoder": encoder,
        "Tokenizer": run.tokenizer_sha256 and f"sha256 {run.tokenizer_sha256}",
        "Chat template": run.template_hash and f"sha256 {run.template_hash}",
        "Run": f"sha256 {manifest.fingerprint}",
    }
    return {name: printable(value) or "not known" for name, value in facts.items()}


def _options(manifest: Manifest) -> dict[str, str]:
    renderer = manifest.run.renderer
    options = {
        **renderer.settings,
        **{f"renderer: {k}": v for k, v in renderer.options.items()},
        **manifest.run.options,
    }
    return {name: printable(_value(value)) for name, value in options.items()}


def _value(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {inner}" for name, inner in value.items()) or "none"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return str(value)


def _inputs(manifest: Manifest) -> list[_Input]:
    counts = manifest.sources
    found: list[_Input] = []
    for file in manifest.run.inputs:
        rows = counts.get(file.path)
        formats = "" if rows is None else ", ".join(f"{name} {number:,}" for name, number in rows.formats.items())
        read = (0, 0, 0) if rows is None else (rows.read, rows.accepted, rows.rejected)
        found.append(_Input(printable(file.path), byte_size(file.size), *read, formats))
    return found


def _reasons(counts: Mapping[str, int], places: Mapping[str, list[str]] | None = None) -> list[_Reason]:
    largest = max(counts.values(), default=1) or 1
    return [
        _Reason(
            printable(name),
            EXPLANATIONS.get(name, ""),
            count,
            count / largest,
            [printable(place) for place in (places or {}).get(name, [])],
        )
        for name, count in sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    ]

"""What a render run did, as text for people and as JSON for machines."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import orjson

from .build import BuildOutcome
from .manifest import Manifest
from .run_folder import DROPS_NAME, REJECTS_NAME

__all__ = ["first_places", "summary_json", "summary_text"]

_PLACES = 3


def summary_text(outcome: BuildOutcome, out: str | os.PathLike[str]) -> str:
    """A few tables; the numbers of a folder that was finished before are its manifest's."""
    manifest, folder = outcome.manifest, Path(out)
    totals = manifest.totals
    parts = [_state(outcome, folder), _renderer(manifest), _inputs(manifest)]
    if manifest.rejects:
        parts.append(_reasons(f"rejected rows ({REJECTS_NAME})", manifest.rejects, first_places(folder / REJECTS_NAME)))
    if manifest.drops:
        parts.append(_reasons(f"left out ({DROPS_NAME})", manifest.drops, first_places(folder / DROPS_NAME)))
    if manifest.events:
        parts.append(_table("what happened in rows that were kept", [], _numbered(manifest.events)))
    if manifest.ignored_fields:
        parts.append(_table("fields that no template knows", [], _numbered(manifest.ignored_fields)))
    parts.append(_splits(manifest))
    parts.append(f"read {totals.read:,} = accepted {totals.accepted:,} + rejected {totals.rejected:,}")
    return "\n\n".join(parts)


def summary_json(outcome: BuildOutcome, out: str | os.PathLike[str]) -> str:
    """One object: the folder, how it came about, the manifest without its list of shards, the first reject places."""
    value: dict[str, Any] = {
        "out": os.fspath(out),
        "unchanged": outcome.unchanged,
        "blocks": outcome.num_blocks,
        "resumed_blocks": outcome.resumed_blocks,
        "splits": _split_totals(outcome.manifest),
        **outcome.manifest.model_dump(mode="json", exclude={"shards"}),
        "first_rejects": first_places(Path(out) / REJECTS_NAME),
        "first_drops": first_places(Path(out) / DROPS_NAME),
    }
    return orjson.dumps(value, option=orjson.OPT_INDENT_2).decode()


def first_places(path: Path) -> dict[str, list[str]]:
    """The first few lines of a rejects or drops file by reason, as `place: field: detail`."""
    found: dict[str, list[str]] = {}
    if not path.is_file():
        return found
    with path.open("rb") as lines:
        for line in lines:
            entry: dict[str, Any] = orjson.loads(line)
            places = found.setdefault(entry["reason"], [])
            if len(places) < _PLACES:
                parts = [f"{entry['source']}:{entry['line']}", entry.get("field"), entry["detail"]]
                places.append(": ".join(part for part in parts if part))
    return found


def _state(outcome: BuildOutcome, folder: Path) -> str:
    if outcome.unchanged:
        return f"{folder}: unchanged, nothing to do; this is what is there"
    if outcome.resumed_blocks:
        return f"{folder}: finished; {outcome.resumed_blocks} of {outcome.num_blocks} blocks were there already"
    return f"{folder}: finished"


def _renderer(manifest: Manifest) -> str:
    run, notes = manifest.run, manifest.notes
    options = ", ".join(f"{name}={value}" for name, value in run.renderer.options.items())
    lines = [
        f"model     {notes.model}",
        f"renderer  {notes.renderer_choice if ':' in notes.renderer_choice else run.renderer.name}"
        + (f" ({options})" if options else ""),
        f"encoder   {notes.encoder}" + (f", because {notes.encoder_fallback}" if notes.encoder_fallback else ""),
    ]
    return "\n".join(lines)


def _inputs(manifest: Manifest) -> str:
    rows: list[list[str]] = []
    for source, counts in manifest.sources.items():
        formats = ", ".join(f"{name} {number:,}" for name, number in counts.formats.items()) or "-"
        rows.append([source, f"{counts.read:,}", f"{counts.accepted:,}", f"{counts.rejected:,}", formats])
    return _table("", ["input", "read", "accepted", "rejected", "formats"], rows)


def _reasons(title: str, counts: dict[str, int], places: dict[str, list[str]]) -> str:
    lines = [title]
    width = max(len(reason) for reason in counts)
    for reason, number in sorted(counts.items(), key=lambda item: (-item[1], item[0])):
        lines.append(f"  {reason:<{width}}  {number:,}")
        lines += [f"    {_printable(place)}" for place in places.get(reason, [])]
        if number > len(places.get(reason, [])):
            lines.append("    …")
    return "\n".join(lines)


def _split_totals(manifest: Manifest) -> dict[str, dict[str, int]]:
    return {
        split: {
            "shards": sum(1 for shard in manifest.shards if shard.split == split),
            "examples": sum(shard.rows for shard in manifest.shards if shard.split == split),
            "tokens": sum(shard.tokens for shard in manifest.shards if shard.split == split),
            "trained_tokens": sum(shard.trained_tokens for shard in manifest.shards if shard.split == split),
        }
        for split in sorted(manifest.splits, reverse=True)
    }


def _splits(manifest: Manifest) -> str:
    rows = [
        [split, *(f"{number:,}" for number in totals.values())] for split, totals in _split_totals(manifest).items()
    ]
    return _table("", ["split", "shards", "examples", "tokens", "trained"], rows)


def _numbered(counts: dict[str, int]) -> list[list[str]]:
    return [[_printable(name), f"{number:,}"] for name, number in counts.items()]


def _table(title: str, header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns padded to their widest cell; numbers to the right."""
    table = [list(header), *map(list, rows)] if header else [list(row) for row in rows]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    numeric = [all(row[i].replace(",", "").isdigit() for row in table[bool(header) :]) for i in range(len(widths))]
    lines = [
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, numeric, strict=True)
        ).rstrip()
        for row in table
    ]
    return "\n".join([title, *("  " + line for line in lines)] if title else lines)


def _printable(text: str) -> str:
    """Quoted data may hold terminal controls."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)

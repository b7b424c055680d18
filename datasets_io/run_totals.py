"""The reports of all blocks, added up into a manifest."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from .block_files import BlockReport
from .manifest import Histogram, Manifest, Notes, RunSpec, SourceCounts, Totals

__all__ = ["manifest_of"]

_IGNORED_FIELDS_KEPT = 50
OTHERS = "(others)"


def manifest_of(run: RunSpec, reports: Sequence[BlockReport], notes: Notes) -> Manifest:
    """The manifest of a run from its blocks, in order."""
    shards = [shard for report in reports for shard in report.shards]
    tokens, trained = Histogram(), Histogram()
    for report in reports:
        tokens += report.tokens_histogram
        trained += report.trained_histogram
    read = sum(report.read for report in reports)
    accepted = sum(report.accepted for report in reports)
    return Manifest(
        run=run,
        shards=shards,
        totals=Totals(
            read=read,
            accepted=accepted,
            rejected=read - accepted,
            rows=sum(shard.rows for shard in shards),
            tokens=sum(shard.tokens for shard in shards),
            trained_tokens=sum(shard.trained_tokens for shard in shards),
        ),
        tokens_histogram=tokens,
        trained_histogram=trained,
        rejects=_added(report.rejects for report in reports),
        drops=_added(report.drops for report in reports),
        events=_added(report.events for report in reports),
        formats=_added(report.formats for report in reports),
        sources=_by_source(reports),
        ignored_fields=_most_frequent(_added(report.ignored_fields for report in reports)),
        notes=notes,
    )


def _added(parts: Iterable[dict[str, int]]) -> dict[str, int]:
    """Sums by name, in the order of the names."""
    total = Counter[str]()
    for part in parts:
        total.update(part)
    return dict(sorted(total.items()))


def _by_source(reports: Sequence[BlockReport]) -> dict[str, SourceCounts]:
    grouped: dict[str, list[BlockReport]] = {}
    for report in reports:
        grouped.setdefault(report.source, []).append(report)
    return {
        source: SourceCounts(
            read=sum(report.read for report in group),
            accepted=sum(report.accepted for report in group),
            rejected=sum(report.rejected for report in group),
            formats=_added(report.formats for report in group),
        )
        for source, group in grouped.items()
    }


def _most_frequent(counts: dict[str, int]) -> dict[str, int]:
    """Names come from the data: there may be as many as rows."""
    ranked = sorted(counts.items(), key=lambda item: (-item[1], item[0]))
    kept = dict(ranked[:_IGNORED_FIELDS_KEPT])
    rest = sum(number for _, number in ranked[_IGNORED_FIELDS_KEPT:])
    return kept | ({OTHERS: rest} if rest else {})

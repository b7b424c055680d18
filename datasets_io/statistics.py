"""Numbers about a finished shard folder: its manifest's, and what the rows' lengths tell per split."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .manifest import Histogram, Manifest
from .run_folder import DROPS_NAME, REJECTS_NAME
from .shards import ShardReader
from .summary import first_places

__all__ = ["Bar", "FolderStatistics", "LengthSummary", "SplitStatistics", "folder_statistics"]

_SHARE_BINS = 10


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a chart: its label, its count, and that as a share of the largest one, 0 to 1."""

    label: str
    count: int
    share: float


@dataclass(frozen=True, slots=True)
class LengthSummary:
    """Of some lengths: the least, the middle, the tenth longest in a hundred, the longest, and the mean."""

    least: int
    median: int
    p90: int
    longest: int
    mean: float


@dataclass(frozen=True, slots=True)
class SplitStatistics:
    """One split.

    Attributes:
        name: of the split.
        shards, rows, tokens, trained: totals.
        size: bytes of its shard files.
        lengths, trained_lengths: None when the split has no rows.
        length_bars, trained_bars: rows by positions and by trained positions.
        share_bars: rows by the share of their positions that is trained, in tenths.
    """

    name: str
    shards: int
    rows: int
    tokens: int
    trained: int
    size: int
    lengths: LengthSummary | None
    trained_lengths: LengthSummary | None
    length_bars: list[Bar]
    trained_bars: list[Bar]
    share_bars: list[Bar]

    @property
    def trained_share(self) -> float:
        """Trained positions of all, 0 to 1; 0 for a split without rows."""
        return self.trained / self.tokens if self.tokens else 0.0


@dataclass(frozen=True, slots=True)
class FolderStatistics:
    """A folder: its manifest, its splits (train first), and the first places of every reject and drop reason."""

    folder: Path
    manifest: Manifest
    splits: list[SplitStatistics]
    reject_places: dict[str, list[str]]
    drop_places: dict[str, list[str]]

    @property
    def trained_share(self) -> float:
        """Trained positions of all, 0 to 1."""
        totals = self.manifest.totals
        return totals.trained_tokens / totals.tokens if totals.tokens else 0.0


def folder_statistics(folder: str | os.PathLike[str]) -> FolderStatistics:
    """Read a folder's manifest, and the length columns of its shards; no tokens.

    Raises:
        UserError: not a finished folder, or a shard is missing or broken.
    """
    path = Path(folder)
    manifest = Manifest.load(path)
    splits = [_split(path, manifest, name) for name in sorted(manifest.splits, reverse=True)]
    return FolderStatistics(path, manifest, splits, first_places(path / REJECTS_NAME), first_places(path / DROPS_NAME))


def _split(path: Path, manifest: Manifest, name: str) -> SplitStatistics:
    with ShardReader(path, name) as reader:
        lengths, trained = reader.lengths, reader.num_trained
    shards = [shard for shard in manifest.shards if shard.split == name]
    return SplitStatistics(
        name=name,
        shards=len(shards),
        rows=len(lengths),
        tokens=int(lengths.sum(dtype=np.int64)),
        trained=int(trained.sum(dtype=np.int64)),
        size=sum(shard.size for shard in shards),
        lengths=_summary(lengths),
        trained_lengths=_summary(trained),
        length_bars=_length_bars(lengths),
        trained_bars=_length_bars(trained),
        share_bars=_share_bars(trained, lengths),
    )


def _summary(lengths: npt.NDArray[Any]) -> LengthSummary | None:
    if not len(lengths):
        return None
    least, median, p90, longest = np.quantile(lengths, [0, 0.5, 0.9, 1], method="higher").tolist()
    return LengthSummary(int(least), int(median), int(p90), int(longest), float(lengths.mean()))


def _length_bars(lengths: npt.NDArray[Any]) -> list[Bar]:
    """Bins of the manifest's histograms, from the first that holds something to the last."""
    histogram = Histogram.of(lengths)
    filled = [i for i, count in enumerate(histogram.counts) if count]
    if not filled:
        return []
    edges = [*histogram.edges, None]
    labels = [_bin_label(edges[i] or 0, edges[i + 1]) for i in range(filled[0], filled[-1] + 1)]
    return _bars(labels, histogram.counts[filled[0] : filled[-1] + 1])


def _bin_label(first: int, end: int | None) -> str:
    if end is None:
        return f"{first:,} or more"
    return f"{first:,}" if end == first + 1 else f"{first:,}–{end - 1:,}"


def _share_bars(trained: npt.NDArray[Any], lengths: npt.NDArray[Any]) -> list[Bar]:
    if not len(lengths):
        return []
    tenths = np.minimum(trained * _SHARE_BINS // np.maximum(lengths, 1), _SHARE_BINS - 1)
    counts = np.bincount(tenths, minlength=_SHARE_BINS).tolist()
    return _bars([f"{10 * i}–{10 * i + 10} %" for i in range(_SHARE_BINS)], counts)


def _bars(labels: list[str], counts: list[int]) -> list[Bar]:
    largest = max(counts)
    return [Bar(label, count, count / largest) for label, count in zip(labels, counts, strict=True)]

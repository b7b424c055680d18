"""Re-checking a finished shard folder: hashes, totals, every row's invariants, and a sample rendered again."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from renderers import UserError, shift_block

from .arrow_numpy import to_numpy, validity
from .columns import BatchView, ListView
from .manifest import Histogram, Manifest, ShardInfo
from .rows import Row
from .shards import open_shard, read_batch

__all__ = ["Fault", "Rerender", "VerifyReport", "verify_shards"]

Rerender = Callable[[Row], "tuple[npt.NDArray[np.int32], npt.NDArray[np.float32]] | None"]
"""Renders a row's conversation again: its unshifted tokens and weights (as stored, so after any normalisation), or
None where the input is not at hand."""

_FAULTS_LISTED = 1000


class Fault(NamedTuple):
    """What is wrong: in which file, in which row of that file (None: the whole file), a stable code, a sentence."""

    shard: str
    row: int | None
    code: str
    detail: str

    def __str__(self) -> str:
        place = self.shard if self.row is None else f"{self.shard}: row {self.row}"
        return f"{place}: {self.detail}"


@dataclass(slots=True)
class VerifyReport:
    """What `verify_shards` found.

    Attributes:
        faults: the first 1000, in order of place.
        num_faults: how many there were.
        shards, rows, tokens: how much was checked.
        rerendered, not_rerendered: sampled rows that were rendered again, and those that could not be.
    """

    faults: list[Fault] = field(default_factory=list[Fault])
    num_faults: int = 0
    shards: int = 0
    rows: int = 0
    tokens: int = 0
    rerendered: int = 0
    not_rerendered: int = 0

    @property
    def ok(self) -> bool:
        return not self.num_faults

    def add(self, shard: str, row: int | None, code: str, detail: str) -> None:
        """Note a fault."""
        self.num_faults += 1
        if len(self.faults) < _FAULTS_LISTED:
            self.faults.append(Fault(shard, row, code, detail))


def verify_shards(path: str | os.PathLike[str], *, rerender: Rerender | None = None, sample: int = 64) -> VerifyReport:
    """Check everything in a finished folder against its manifest and against itself.

    Damage is reported, never raised. One record batch is in memory at a time.

    Args:
        path: folder with `manifest.json`.
        rerender: renders a row again; None to leave that out.
        sample: how many rows to render again, spread evenly over the folder.

    Raises:
        UserError: there is no readable manifest to check against.
    """
    folder = Path(path)
    manifest = Manifest.load(folder)
    report = VerifyReport()
    total = sum(shard.rows for shard in manifest.shards)
    chosen = set(np.linspace(0, total - 1, min(sample, total), dtype=np.int64).tolist()) if rerender else set[int]()
    histograms = [Histogram(), Histogram()]
    for shard in manifest.shards:
        report.shards += 1
        _verify_file(folder / shard.file, shard, report, histograms, chosen, rerender)
    _verify_totals(folder, manifest, report, histograms)
    return report


def _verify_file(
    path: Path,
    shard: ShardInfo,
    report: VerifyReport,
    histograms: list[Histogram],
    chosen: set[int],
    rerender: Rerender | None,
) -> None:
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        report.add(shard.file, None, "missing_file", f"expected a readable file; {error.strerror}")
        return
    if digest != shard.sha256:
        report.add(shard.file, None, "hash", f"expected sha256 {shard.sha256}; got {digest}")
    rows = tokens = trained = 0
    try:
        reader = open_shard(path)
        for i in range(reader.num_record_batches):
            batch = read_batch(reader, i, path, full=True)  # damaged offsets must not reach numpy
            view = BatchView(batch)
            _verify_batch(view, _Place(shard.file, rows, report))
            for name, number in (("num_tokens", 0), ("num_trained", 1)):
                histograms[number] += Histogram.of(np.maximum(view.numbers(name), 0))
            if rerender is not None:
                here = [row for row in range(view.num_rows) if report.rows + row in chosen]
                _verify_rerendered(view, here, _Place(shard.file, rows, report), rerender)
            rows += view.num_rows
            report.rows += view.num_rows
            tokens += int(view.numbers("num_tokens").sum(dtype=np.int64))
            trained += int(view.numbers("num_trained").sum(dtype=np.int64))
    except (UserError, pa.ArrowException, OSError, UnicodeDecodeError) as error:
        report.add(shard.file, None, "unreadable", str(error).removeprefix(f"{path}: ").splitlines()[0])
        return
    report.tokens += tokens
    for name, expected, got in (
        ("rows", shard.rows, rows),
        ("tokens", shard.tokens, tokens),
        ("trained_tokens", shard.trained_tokens, trained),
    ):
        if expected != got:
            report.add(shard.file, None, "totals", f"{name}: expected {expected}, as the manifest says; got {got}")


class _Place(NamedTuple):
    """Where a batch is: its file and the number of its first row there."""

    shard: str
    first_row: int
    report: VerifyReport

    def fault(self, rows: npt.NDArray[Any], code: str, detail: str) -> None:
        for row in np.unique(rows).tolist():
            self.report.add(self.shard, self.first_row + row, code, detail)


def _verify_batch(view: BatchView, place: _Place) -> None:
    lengths = np.diff(view.tokens.offsets)
    num_tokens = view.numbers("num_tokens")
    place.fault(np.flatnonzero(lengths < 1), "empty", "expected at least 1 position; got none")
    place.fault(np.flatnonzero(num_tokens != lengths), "num_tokens", "num_tokens: expected the length of tokens")
    for name in ("target_tokens", "weights"):
        _verify_lengths(view, name, lengths, place)
    _verify_shift(view, lengths, place)
    _verify_images(view, place)
    _verify_weights(view, place)
    _verify_segments(view, lengths, place)


def _verify_lengths(view: BatchView, name: str, lengths: npt.NDArray[Any], place: _Place) -> None:
    column = view.list_view(name)
    flat = view.one_dimensional(name)
    place.fault(
        np.flatnonzero(flat & (np.diff(column.offsets) != lengths)), "length", f"{name}: expected as many as tokens"
    )
    for row in np.flatnonzero(~flat & view.present(name)).tolist():
        shape = view.list_view(f"shape.{name}").row(row)
        if (
            shape is None
            or not len(shape)
            or shape[0] != lengths[row]
            or np.prod(shape) != int(np.diff(column.offsets)[row])
        ):
            place.fault(np.array([row]), "length", f"{name}: expected a shape of {lengths[row]} positions")


def _verify_shift(view: BatchView, lengths: npt.NDArray[Any], place: _Place) -> None:
    """target_tokens[:-1] == tokens[1:], but for image positions, whose target is 0."""
    column = view.list_view("target_tokens")
    rows = np.flatnonzero(view.one_dimensional("target_tokens") & (np.diff(column.offsets) == lengths))
    tokens = _gather(view.tokens, rows)
    targets = _gather(column, rows)
    row_of = np.repeat(rows, lengths[rows])
    same_row = row_of[1:] == row_of[:-1]
    wrong = same_row & (targets[:-1] != tokens[1:])
    place.fault(row_of[1:][wrong], "shift", "target_tokens: expected each to be the token after it")


def _verify_images(view: BatchView, place: _Place) -> None:
    """Tokens are 0 at image positions, and an image is nothing to train on."""
    if not view.layout.images:
        return
    plain = view.one_dimensional("weights")
    for row in range(view.num_rows):
        for image in view.images(row):
            stop = image.position + image.length
            stored, weights = view.tokens.row(row), view.list_view("weights").row(row)
            if stored is None or stop > len(stored) or stored[image.position : stop].any():
                place.fault(np.array([row]), "image", "tokens: expected 0 at image positions")
            elif plain[row] and weights is not None and weights[max(image.position - 1, 0) : stop - 1].any():
                place.fault(np.array([row]), "image", "weights: expected 0 where the target is an image")


def _verify_weights(view: BatchView, place: _Place) -> None:
    column = view.list_view("weights")
    bad = np.flatnonzero(~np.isfinite(column.values))
    row_of = np.searchsorted(column.offsets, bad, side="right") - 1
    place.fault(row_of, "not_finite", "weights: expected finite numbers")
    valid = view.present("weights")
    plain = view.one_dimensional("weights")
    nonzero = np.diff(np.searchsorted(np.flatnonzero(column.values), column.offsets))
    expected = np.where(valid, nonzero, np.diff(view.tokens.offsets))
    for row in np.flatnonzero(valid & ~plain).tolist():
        expected[row] = view.row(row).num_trained
    num_trained = view.numbers("num_trained")
    place.fault(
        np.flatnonzero(num_trained != expected), "num_trained", "num_trained: expected the nonzero weights' number"
    )
    place.fault(np.flatnonzero(expected == 0), "untrained", "weights: expected at least one that is not 0")


def _verify_segments(view: BatchView, lengths: npt.NDArray[Any], place: _Place) -> None:
    """Where known, runs start at 0, rise, and end inside the unshifted sequence."""
    column = view.batch.column("segments")
    offsets = to_numpy(column.offsets)
    starts = to_numpy(column.values.field("start"))
    valid = validity(column)
    known = np.arange(view.num_rows) if valid is None else np.flatnonzero(valid)
    empty = offsets[known] == offsets[known + 1]
    bad = [known[empty]]
    known = known[~empty]
    bad.append(known[(starts[offsets[known]] != 0) | (starts[offsets[known + 1] - 1] > lengths[known])])
    row_of = np.repeat(np.arange(view.num_rows), np.diff(offsets))
    inside = starts[offsets[0] : offsets[-1]]
    bad.append(row_of[1:][(row_of[1:] == row_of[:-1]) & (np.diff(inside) <= 0)])
    place.fault(np.concatenate(bad), "segments", "segments: expected runs that rise from 0 and cover the row")


def _verify_rerendered(view: BatchView, rows: list[int], place: _Place, rerender: Rerender) -> None:
    for index in rows:
        row = view.row(index)
        try:
            result = rerender(row)
        except UserError as error:
            place.fault(np.array([index]), "rerender", f"rendering again: {error}")
            continue
        if result is None:
            place.report.not_rerendered += 1
            continue
        place.report.rerendered += 1
        tokens, weights = result
        inputs, targets, weights, _ = shift_block(tokens, weights, np.array([0, len(tokens)], np.int64))
        for name, stored, again in (
            ("tokens", row.tokens, inputs),
            ("target_tokens", row.target_tokens, targets),
            ("weights", row.weights, weights),
        ):
            if stored is None or not np.array_equal(stored, again):
                place.fault(np.array([index]), "rerender", f"{name}: expected what rendering again gives")


def _verify_totals(folder: Path, manifest: Manifest, report: VerifyReport, histograms: list[Histogram]) -> None:
    totals = manifest.totals
    pairs = [
        ("read", totals.accepted + totals.rejected, totals.read),
        ("rejected", sum(manifest.rejects.values()), totals.rejected),
        ("rows", sum(shard.rows for shard in manifest.shards), totals.rows),
        ("tokens", sum(shard.tokens for shard in manifest.shards), totals.tokens),
        ("trained_tokens", sum(shard.trained_tokens for shard in manifest.shards), totals.trained_tokens),
    ]
    for name, expected, got in pairs:
        if expected != got:
            report.add("manifest.json", None, "totals", f"totals.{name}: expected {expected}; got {got}")
    stored = (manifest.tokens_histogram, manifest.trained_histogram)
    if report.rows == totals.rows and any(a.counts != b.counts for a, b in zip(stored, histograms, strict=True)):
        report.add("manifest.json", None, "histogram", "histograms: expected what the rows' lengths give")
    listed = {shard.file for shard in manifest.shards}
    for path in sorted(folder.glob("*.arrow")):
        if path.name not in listed:
            report.add(path.name, None, "unlisted_file", "expected only files that the manifest lists")


def _gather(column: ListView, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """The values of some rows, one after another; the column itself, uncopied, when these are all rows."""
    if len(rows) == len(column.offsets) - 1:
        return column.values[column.offsets[0] : column.offsets[-1]]
    return np.concatenate(
        [column.values[:0], *(column.values[column.offsets[r] : column.offsets[r + 1]] for r in rows)]
    )

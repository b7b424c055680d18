"""`build_shards`: conversations in, a finished shard folder out; resumable, the same bytes however it was run."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import orjson

from renderers import InputError, ParityError, UserError

from .block_files import BlockReport, RenderTask, finished_report, rejects_path
from .block_render import renderer_of
from .blocks import Block, iter_blocks
from .dedup import DigestTask, find_duplicates
from .engines import Engine, EngineRun, Results, engine_run
from .errors import TooManyRejectsError
from .manifest import Manifest, Notes, RunSpec, explain_difference
from .reject_limit import RejectLimit
from .run_folder import RunFolder, RunState
from .run_spec import InputGuard, input_files, run_spec_of
from .run_totals import manifest_of
from .sources import Source, expand_inputs
from .spec import RenderSpec

__all__ = ["BuildOutcome", "BuildProgress", "build_shards", "check_rejects", "run_build"]

_REASONS_SHOWN = 5


class BuildProgress(Protocol):
    """What a build tells of itself; `Progress` has it."""

    def advance(self, amount: float = 1, **counts: int) -> None:
        """`amount` bytes of input are done, with these counts."""
        ...

    def skip(self, amount: float) -> None:
        """`amount` bytes were done by an earlier run."""
        ...


@dataclass(frozen=True, slots=True)
class BuildOutcome:
    """A finished folder, and how it came about.

    Attributes:
        unchanged: it was there already; nothing was done.
        resumed_blocks: blocks that an interrupted run had finished.
        num_blocks: blocks of the whole input; 0 when nothing was done.
    """

    manifest: Manifest
    unchanged: bool = False
    resumed_blocks: int = 0
    num_blocks: int = 0


def build_shards(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    spec: RenderSpec,
    *,
    workers: int = 0,
    overwrite: bool = False,
    strict: bool = False,
    max_rejects: int | str = 0,
    dedup: bool = False,
    engine: Engine = "local",
    progress: BuildProgress | None = None,
) -> Manifest:
    """Render conversations into a shard folder and return its manifest.

    Killed at any point and called again, it goes on where it was; the files are the same, byte for byte, whatever
    the number of workers, the engine and the interruptions. Called again when finished, it does nothing.

    Args:
        inputs: see `expand_inputs`.
        out: the folder; new, empty, or one of an earlier run.
        spec: everything that decides the result, besides the inputs and `dedup`.
        workers: processes; 0 works in this one.
        overwrite: delete what an earlier run left there first.
        strict: stop at the first rejected row.
        max_rejects: rows, or `"5%"` of the rows read, that may be rejected.
        dedup: leave out conversations that came before.
        engine: `local` or `ray`.
        progress: told about finished input.

    Raises:
        TooManyRejectsError: more rejects than allowed; everything has been written.
        InputError: the first bad row, when `strict`.
        WorkerDiedError: a worker died at one block twice.
        UserError: anything else that the caller can mend: inputs, model, a folder of another run, nothing to train on.
    """
    outcome = run_build(
        inputs,
        out,
        spec,
        workers=workers,
        overwrite=overwrite,
        strict=strict,
        max_rejects=max_rejects,
        dedup=dedup,
        engine=engine,
        progress=progress,
    )
    check_rejects(outcome.manifest, max_rejects)
    return outcome.manifest


def check_rejects(manifest: Manifest, max_rejects: int | str) -> None:
    """Raises TooManyRejectsError when a finished run rejected more than `max_rejects`."""
    totals, limit = manifest.totals, RejectLimit.parse(max_rejects)
    if not limit.allows(totals.rejected, totals.read):
        raise TooManyRejectsError(
            f"rejects: expected at most {limit} among {totals.read} rows; got {totals.rejected}; "
            "the other rows are written, and rejects.jsonl holds these"
        )


def run_build(
    inputs: Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    spec: RenderSpec,
    *,
    workers: int = 0,
    overwrite: bool = False,
    strict: bool = False,
    max_rejects: int | str = 0,
    dedup: bool = False,
    engine: Engine = "local",
    progress: BuildProgress | None = None,
) -> BuildOutcome:
    """`build_shards` without the judgement about rejects; `max_rejects` is only checked for its form."""
    RejectLimit.parse(max_rejects)
    sources = expand_inputs([os.fspath(path) for path in inputs])
    if dedup:
        _refuse_unrepeatable(sources)
    guard = InputGuard(sources)
    run = run_spec_of(spec, renderer_of(spec), input_files(sources, known=False), dedup=dedup)
    with RunFolder(out) as folder:
        run_engine = engine_run(engine, workers, (folder.lock,))
        if overwrite:
            folder.clear()
        finished = folder.manifest()
        if finished is not None:
            _check_unchanged(finished, run, sources, spec, folder)
            folder.tidy()
            return BuildOutcome(finished, unchanged=True)
        state = _state_of(folder, run, spec)
        build = _Build(folder, sources, spec, state, run_engine, strict, dedup, progress)
        try:
            return build.run(guard)
        except ParityError as error:
            _refuse_unrepeatable(sources, f"the fast encoder was wrong ({error}); start again with backend tokenizers")
            state = RunState(run=run, backend="tokenizers", fallback=str(error))
            return _Build(folder, sources, spec, state, run_engine, strict, dedup, progress).run(guard)


def _refuse_unrepeatable(sources: Sequence[Source], why: str = "dedup reads its inputs twice") -> None:
    for source in sources:
        if source.reads_once:
            raise UserError(f"{source.name}: expected an input that can be read twice; {why}")


def _state_of(folder: RunFolder, run: RunSpec, spec: RenderSpec) -> RunState:
    """The state to begin or go on with.

    Raises:
        UserError: the folder holds an unfinished run of something else.
    """
    before = folder.state()
    if before is None:
        return RunState(run=run, backend=spec.backend)
    changes = explain_difference(before.run, run)
    if changes:
        raise UserError(
            f"{folder.path}: expected to go on with the unfinished run there, but {_listed(changes)}; "
            "--overwrite starts again"
        )
    return before


def _check_unchanged(
    finished: Manifest, run: RunSpec, sources: Sequence[Source], spec: RenderSpec, folder: RunFolder
) -> None:
    """Refuse to touch a finished folder that was made from something else."""
    if any(source.reads_once for source in sources):
        for _ in iter_blocks(sources, spec.block_bytes, spec.max_row_bytes):
            pass  # only now is it known what came
        run = run.model_copy(update={"inputs": input_files(sources, known=True)})
    changes = explain_difference(finished, run)
    if changes:
        raise UserError(
            f"{folder.path}: expected the folder of an unchanged run, but {_listed(changes)}; --overwrite replaces it"
        )


def _listed(changes: list[str]) -> str:
    more = f" and {len(changes) - _REASONS_SHOWN} more" if len(changes) > _REASONS_SHOWN else ""
    return f"changed: {'; '.join(changes[:_REASONS_SHOWN])}{more}"


@dataclass(slots=True)
class _Build:
    """One pass over the input."""

    folder: RunFolder
    sources: list[Source]
    spec: RenderSpec
    state: RunState
    engine: EngineRun
    strict: bool
    dedup: bool
    progress: BuildProgress | None
    reports: dict[int, BlockReport] = field(default_factory=dict[int, BlockReport])
    resumed: int = 0
    judged: int = 0  # blocks looked at for `strict`, in order

    def run(self, guard: InputGuard) -> BuildOutcome:
        self.folder.begin(self.state)
        with self.engine() as results:
            duplicates = self._duplicates(results) if self.dedup else {}
            for report in results(self._tasks(duplicates)):
                self._take(report)
                if self.progress is not None:
                    self.progress.advance(report.size, accepted=report.accepted, rejected=report.rejected)
        guard.check()
        ordered = [self.reports[index] for index in sorted(self.reports)]
        self.folder.gather_lines([report.index for report in ordered])
        run = self.state.run.model_copy(update={"inputs": input_files(self.sources, known=True)})
        manifest = manifest_of(run, ordered, self._notes(ordered))
        if not any(shard.split == "train" for shard in manifest.shards):
            self.folder.forget_blocks()
            raise UserError(_nothing_left(manifest))
        self.folder.finish(manifest)
        return BuildOutcome(manifest, resumed_blocks=self.resumed, num_blocks=len(ordered))

    def _blocks(self) -> Iterator[Block]:
        return iter_blocks(self.sources, self.spec.block_bytes, self.spec.max_row_bytes)

    def _duplicates(self, results: Results) -> Mapping[int, Mapping[int, str]]:
        return find_duplicates(results(DigestTask(block, self.spec) for block in self._blocks()))

    def _tasks(self, duplicates: Mapping[int, Mapping[int, str]]) -> Iterator[RenderTask]:
        # Absolute, as a worker elsewhere may have another working directory.
        model = Path(self.spec.model)
        where = str(model.resolve()) if model.is_dir() else self.spec.model
        spec = self.spec.model_copy(update={"backend": self.state.backend, "model": where})
        folder, name, run = self.folder.path.resolve(), self.state.name, self.state.run
        for block in self._blocks():
            report = finished_report(folder, name, block)
            if report is None:
                known = duplicates.get(block.index, {})
                yield RenderTask(block, spec, str(folder), name, run.tokenizer_sha256, run.template_hash, known)
                continue
            self.resumed += 1
            self._take(report)
            if self.progress is not None:
                self.progress.skip(report.size)

    def _take(self, report: BlockReport) -> None:
        self.reports[report.index] = report
        while self.strict and self.judged in self.reports:
            if self.reports[self.judged].rejected:
                self._stop_at_reject(self.judged)
            self.judged += 1

    def _stop_at_reject(self, index: int) -> None:
        with rejects_path(self.folder.path, index).open("rb") as lines:
            first: dict[str, Any] = orjson.loads(lines.readline())
        # Not a run to go on with: its input has to change first.
        self.folder.forget_blocks()
        place = f"{first['source']}:{first['line']}"
        raise InputError(f"{place}: {first['field']}" if first["field"] else place, first["reason"], first["detail"])

    def _notes(self, reports: Sequence[BlockReport]) -> Notes:
        first = reports[0] if reports else None
        return Notes(
            model=self.spec.model,
            renderer_choice=renderer_of(self.spec).choice,
            encoder=first.encoder if first else "",
            encoder_fallback=self.state.fallback or (first.encoder_fallback if first else None),
        )


def _nothing_left(manifest: Manifest) -> str:
    totals = manifest.totals
    if not totals.read:
        return "inputs: expected rows; got none"
    counts = Counter(manifest.rejects) + Counter(manifest.drops)
    why = [f"{reason} {number}" for reason, number in counts.most_common(_REASONS_SHOWN)]
    if len(counts) > len(why):
        why.append("…")
    if totals.rows:
        why.append(f"held out {totals.rows}")
    return (
        f"inputs: expected something to train on; of {totals.read} rows {totals.rejected} were rejected and nothing is "
        f"left of the others ({', '.join(why)}); rejects.jsonl and drops.jsonl say more"
    )

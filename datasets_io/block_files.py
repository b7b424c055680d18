"""One block on disk: its shards, rejects and drops, and last the sidecar that says it is finished."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
from pydantic import BaseModel, ConfigDict, ValidationError

from renderers import UserError

from .atomic import write_bytes, write_json
from .block_render import SPLITS, BlockResult, render_block, renderer_of
from .blocks import Block
from .manifest import Codec, Histogram, ShardInfo
from .run_spec import template_hash_of
from .schema import layout_of
from .shard_writer import ShardWriter
from .spec import RenderSpec

__all__ = [
    "BLOCKS_FOLDER",
    "BlockReport",
    "RenderTask",
    "block_hash",
    "drops_path",
    "finished_report",
    "rejects_path",
]

BLOCKS_FOLDER = "blocks"
_ONE_FILE = 1 << 62  # a block is one shard per split, however many tokens it has


class BlockReport(BaseModel):
    """The sidecar of a finished block.

    Attributes:
        run: what `RunFolder` knows the run by; a sidecar of another run does not count.
        block_hash: of the block's input.
        size: bytes of the block's input.
        other counts: as in `BlockResult`, rejects and drops by reason.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    run: str
    block_hash: str
    index: int
    source: str
    size: int
    shards: list[ShardInfo]
    read: int
    accepted: int
    rejects: dict[str, int]
    drops: dict[str, int]
    formats: dict[str, int]
    events: dict[str, int]
    ignored_fields: dict[str, int]
    tokens_histogram: Histogram
    trained_histogram: Histogram
    encoder: str
    encoder_fallback: str | None

    @property
    def rejected(self) -> int:
        return self.read - self.accepted


@dataclass(frozen=True, slots=True)
class RenderTask:
    """Render one block into `folder`; picklable, and the same wherever and how often it runs."""

    block: Block
    spec: RenderSpec
    folder: str
    run: str
    tokenizer_sha256: str
    template_hash: str
    duplicates: Mapping[int, str] = field(default_factory=dict[int, str])

    def __call__(self) -> BlockReport:
        """Do it.

        Raises:
            ParityError: see `render_block`.
            UserError: the model is not the one that the run began with.
        """
        renderer = renderer_of(self.spec)
        if (renderer.tokenizer.fingerprint, template_hash_of(renderer)) != (self.tokenizer_sha256, self.template_hash):
            raise UserError(f"{self.spec.model}: expected a model that stays as it is; it changed during the run")
        result = render_block(self.block, self.spec, self.duplicates)
        return write_block(Path(self.folder), self.run, self.block, result, self.spec.codec)


def write_block(folder: Path, run: str, block: Block, result: BlockResult, codec: Codec | None) -> BlockReport:
    """Write all files of a block, each whole or not at all, the sidecar last."""
    tokens, trained = Histogram(), Histogram()
    shards: list[ShardInfo] = []
    for split in SPLITS:
        batch = result.batches[split]
        with ShardWriter(
            folder,
            split=split,
            layout=layout_of(batch.schema),
            codec=codec,
            max_tokens=_ONE_FILE,
            first_shard=block.index,
        ) as writer:
            writer.write(batch)
        shards += writer.shards
        tokens += writer.tokens_histogram
        trained += writer.trained_histogram
    _write_lines(rejects_path(folder, block.index), (reject.to_json() for reject in result.rejects))
    _write_lines(drops_path(folder, block.index), (drop.to_json() for drop in result.drops))
    report = BlockReport(
        run=run,
        block_hash=block_hash(block),
        index=block.index,
        source=block.source,
        size=len(block.data),
        shards=shards,
        read=result.read,
        accepted=result.accepted,
        rejects=Counter(reject.reason for reject in result.rejects),
        drops=Counter(drop.reason for drop in result.drops),
        formats=result.formats,
        events=result.events,
        ignored_fields=result.ignored_fields,
        tokens_histogram=tokens,
        trained_histogram=trained,
        encoder=result.encoder,
        encoder_fallback=result.encoder_fallback,
    )
    write_json(_sidecar(folder, block.index), report.model_dump(mode="json"))
    return report


def finished_report(folder: Path, run: str, block: Block) -> BlockReport | None:
    """The report of a block that an earlier try of this run finished, None where it has to be done (again)."""
    try:
        report = BlockReport.model_validate(orjson.loads(_sidecar(folder, block.index).read_bytes()))
    except (FileNotFoundError, orjson.JSONDecodeError, ValidationError):
        return None
    if report.run != run or report.block_hash != block_hash(block):
        return None
    if not all(_has_size(folder / shard.file, shard.size) for shard in report.shards):
        return None
    listed = [(report.rejects, rejects_path), (report.drops, drops_path)]
    return report if all(path(folder, block.index).is_file() == bool(counts) for counts, path in listed) else None


def block_hash(block: Block) -> str:
    """Hash of everything that rendering a block looks at."""
    digest = hashlib.blake2b(block.data, digest_size=16)
    about: list[Any] = [block.index, block.source, block.first_line, block.first_offset, block.kind]
    digest.update(repr([about, block.lines, block.offsets, block.faults]).encode())
    return digest.hexdigest()


def rejects_path(folder: Path, index: int) -> Path:
    return folder / BLOCKS_FOLDER / f"{index:05d}.rejects.jsonl"


def drops_path(folder: Path, index: int) -> Path:
    return folder / BLOCKS_FOLDER / f"{index:05d}.drops.jsonl"


def _sidecar(folder: Path, index: int) -> Path:
    return folder / BLOCKS_FOLDER / f"{index:05d}.json"


def _write_lines(path: Path, lines: Iterable[bytes]) -> None:
    data = b"".join(line + b"\n" for line in lines)
    if data:
        write_bytes(path, data)
    else:
        path.unlink(missing_ok=True)


def _has_size(path: Path, size: int) -> bool:
    return path.is_file() and path.stat().st_size == size

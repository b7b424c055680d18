"""Lines in, shards out, batches out.

Names are imported when first used: asking for help on the command line must not load Arrow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .atomic import TEMPORARY_PREFIX, atomic_path, atomic_stream, remove_leftovers, write_bytes, write_json
    from .batching import Batch, BatchPlan, BatchPosition, iter_batches, plan_batches
    from .block_files import BlockReport, RenderTask
    from .block_render import BlockResult, is_held_out, render_block
    from .block_rows import BlockBatch, BlockMeta, block_to_batch
    from .blocks import Block, BlockFault, iter_blocks
    from .build import BuildOutcome, BuildProgress, build_shards, check_rejects, run_build
    from .columns import BatchView
    from .errors import TooManyRejectsError, WorkerDiedError
    from .export import IGNORE_INDEX, export_parquet
    from .flat_rows import Drop
    from .folder_lock import lock_folder
    from .formats import FORMATS, convert_row
    from .manifest import (
        LENGTH_BIN_EDGES,
        MANIFEST_NAME,
        Codec,
        Histogram,
        InputFile,
        Libraries,
        Manifest,
        Notes,
        RendererInfo,
        RunSpec,
        ShardInfo,
        SourceCounts,
        Totals,
        explain_difference,
    )
    from .mapping import ColumnMapping, parse_mapping
    from .packing import PackingPlan, plan_packing
    from .pages import render_page, write_page
    from .progress import Progress
    from .read import ParsedBlock, ParsedRow, ReadOptions, Reject, format_reject, parse_block, read_conversations
    from .rows import (
        NO_ROLE,
        ROLE_CODES,
        ROW_HASH_BYTES,
        ImageRef,
        Provenance,
        Row,
        Segments,
        datum_to_row,
        row_to_datum,
    )
    from .schema import FORMAT_VERSION, RowLayout, rows_to_batch, schema_of
    from .shard_writer import CODECS, ShardWriter
    from .shards import RankView, ShardReader
    from .sources import InputFingerprint, Source, expand_inputs, input_fingerprint
    from .spec import LengthPolicy, RenderSpec
    from .verify import Fault, Rerender, VerifyReport, verify_shards

_MODULES = {
    "Batch": "batching",
    "BatchPlan": "batching",
    "BatchPosition": "batching",
    "BatchView": "columns",
    "Block": "blocks",
    "BlockBatch": "block_rows",
    "BlockFault": "blocks",
    "BlockMeta": "block_rows",
    "BlockReport": "block_files",
    "BlockResult": "block_render",
    "BuildOutcome": "build",
    "BuildProgress": "build",
    "CODECS": "shard_writer",
    "Codec": "manifest",
    "ColumnMapping": "mapping",
    "Drop": "flat_rows",
    "FORMATS": "formats",
    "FORMAT_VERSION": "schema",
    "Fault": "verify",
    "Histogram": "manifest",
    "IGNORE_INDEX": "export",
    "ImageRef": "rows",
    "InputFile": "manifest",
    "InputFingerprint": "sources",
    "LENGTH_BIN_EDGES": "manifest",
    "LengthPolicy": "spec",
    "Libraries": "manifest",
    "MANIFEST_NAME": "manifest",
    "Manifest": "manifest",
    "NO_ROLE": "rows",
    "Notes": "manifest",
    "PackingPlan": "packing",
    "ParsedBlock": "read",
    "ParsedRow": "read",
    "Progress": "progress",
    "Provenance": "rows",
    "ROLE_CODES": "rows",
    "ROW_HASH_BYTES": "rows",
    "RankView": "shards",
    "ReadOptions": "read",
    "Reject": "read",
    "RenderSpec": "spec",
    "RenderTask": "block_files",
    "RendererInfo": "manifest",
    "Rerender": "verify",
    "Row": "rows",
    "RowLayout": "schema",
    "RunSpec": "manifest",
    "Segments": "rows",
    "ShardInfo": "manifest",
    "ShardReader": "shards",
    "ShardWriter": "shard_writer",
    "Source": "sources",
    "SourceCounts": "manifest",
    "TEMPORARY_PREFIX": "atomic",
    "TooManyRejectsError": "errors",
    "Totals": "manifest",
    "VerifyReport": "verify",
    "WorkerDiedError": "errors",
    "atomic_path": "atomic",
    "atomic_stream": "atomic",
    "block_to_batch": "block_rows",
    "build_shards": "build",
    "check_rejects": "build",
    "convert_row": "formats",
    "datum_to_row": "rows",
    "expand_inputs": "sources",
    "explain_difference": "manifest",
    "export_parquet": "export",
    "format_reject": "read",
    "input_fingerprint": "sources",
    "is_held_out": "block_render",
    "iter_batches": "batching",
    "iter_blocks": "blocks",
    "lock_folder": "folder_lock",
    "parse_block": "read",
    "parse_mapping": "mapping",
    "plan_batches": "batching",
    "plan_packing": "packing",
    "read_conversations": "read",
    "remove_leftovers": "atomic",
    "render_block": "block_render",
    "render_page": "pages",
    "row_to_datum": "rows",
    "rows_to_batch": "schema",
    "run_build": "build",
    "schema_of": "schema",
    "verify_shards": "verify",
    "write_bytes": "atomic",
    "write_json": "atomic",
    "write_page": "pages",
}

__all__ = [
    "CODECS",
    "FORMATS",
    "FORMAT_VERSION",
    "IGNORE_INDEX",
    "LENGTH_BIN_EDGES",
    "MANIFEST_NAME",
    "NO_ROLE",
    "ROLE_CODES",
    "ROW_HASH_BYTES",
    "TEMPORARY_PREFIX",
    "Batch",
    "BatchPlan",
    "BatchPosition",
    "BatchView",
    "Block",
    "BlockBatch",
    "BlockFault",
    "BlockMeta",
    "BlockReport",
    "BlockResult",
    "BuildOutcome",
    "BuildProgress",
    "Codec",
    "ColumnMapping",
    "Drop",
    "Fault",
    "Histogram",
    "ImageRef",
    "InputFile",
    "InputFingerprint",
    "LengthPolicy",
    "Libraries",
    "Manifest",
    "Notes",
    "PackingPlan",
    "ParsedBlock",
    "ParsedRow",
    "Progress",
    "Provenance",
    "RankView",
    "ReadOptions",
    "Reject",
    "RenderSpec",
    "RenderTask",
    "RendererInfo",
    "Rerender",
    "Row",
    "RowLayout",
    "RunSpec",
    "Segments",
    "ShardInfo",
    "ShardReader",
    "ShardWriter",
    "Source",
    "SourceCounts",
    "TooManyRejectsError",
    "Totals",
    "VerifyReport",
    "WorkerDiedError",
    "atomic_path",
    "atomic_stream",
    "block_to_batch",
    "build_shards",
    "check_rejects",
    "convert_row",
    "datum_to_row",
    "expand_inputs",
    "explain_difference",
    "export_parquet",
    "format_reject",
    "input_fingerprint",
    "is_held_out",
    "iter_batches",
    "iter_blocks",
    "lock_folder",
    "parse_block",
    "parse_mapping",
    "plan_batches",
    "plan_packing",
    "read_conversations",
    "remove_leftovers",
    "render_block",
    "render_page",
    "row_to_datum",
    "rows_to_batch",
    "run_build",
    "schema_of",
    "verify_shards",
    "write_bytes",
    "write_json",
    "write_page",
]


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = globals()[name] = getattr(importlib.import_module(f".{module}", __name__), name)
    return value


def __dir__() -> list[str]:
    return __all__

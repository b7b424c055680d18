"""Sessions, models in strict order, futures, checkpoints: what the in-process client and the server both stand on.

Importing this imports no torch; the service's own thread does, at its first work.
"""

from __future__ import annotations

from .abandoned import Abandoned
from .archive import pack_bytes, pack_file
from .catalog import Catalog
from .checkpoints import CheckpointInfo, CheckpointStore, FolderCheckpointStore, StoredCheckpoint, check_ttl
from .export import export_archive, export_merged
from .manifest import DamagedCheckpointError
from .metadata import MemoryMetadataStore, MetadataStore, RunRecord, SamplerRecord, SessionRecord
from .operations import Sample, Ticket
from .options import ServiceOptions, default_checkpoint_dir
from .service import DEFAULT_OWNER, FinishStatus, Service

__all__ = [
    "DEFAULT_OWNER",
    "Abandoned",
    "Catalog",
    "CheckpointInfo",
    "CheckpointStore",
    "DamagedCheckpointError",
    "FinishStatus",
    "FolderCheckpointStore",
    "MemoryMetadataStore",
    "MetadataStore",
    "RunRecord",
    "Sample",
    "SamplerRecord",
    "Service",
    "ServiceOptions",
    "SessionRecord",
    "StoredCheckpoint",
    "Ticket",
    "check_ttl",
    "default_checkpoint_dir",
    "export_archive",
    "export_merged",
    "pack_bytes",
    "pack_file",
]

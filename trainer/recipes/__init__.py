"""Training loops as users run them: client code only, so they run in process and against a server alike.

Importing this imports no torch.
"""

from __future__ import annotations

from .config import AdamConfig, LoraOptions, SampleConfig, TrainConfig, load_config
from .report import write_report
from .run_folder import CheckpointRecord, RunFolder, last_checkpoint
from .schedule import default_learning_rate, learning_rate_at, resolve_learning_rate
from .speaking import Answer, Speaker, SpeakingOptions
from .trackers import MetricLogger, TrackerContext, tracker_names
from .train_from_shards import DivergedError, TrainResult, train_from_shards
from .wire import Wire, open_service, open_wire

__all__ = [
    "AdamConfig",
    "Answer",
    "CheckpointRecord",
    "DivergedError",
    "LoraOptions",
    "MetricLogger",
    "RunFolder",
    "SampleConfig",
    "Speaker",
    "SpeakingOptions",
    "TrackerContext",
    "TrainConfig",
    "TrainResult",
    "Wire",
    "default_learning_rate",
    "last_checkpoint",
    "learning_rate_at",
    "load_config",
    "open_service",
    "open_wire",
    "resolve_learning_rate",
    "tracker_names",
    "train_from_shards",
    "write_report",
]

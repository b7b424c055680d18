"""Clients by the SDK's names and methods, on models of this process; `connect` also reaches a server."""

from __future__ import annotations

from .connect import connect
from .custom_loss import CustomLossFn
from .futures import APIFuture
from .rest_client import RestClient
from .sampling_client import SamplingClient
from .service_client import ServiceClient
from .training_client import TrainingClient

__all__ = ["APIFuture", "CustomLossFn", "RestClient", "SamplingClient", "ServiceClient", "TrainingClient", "connect"]

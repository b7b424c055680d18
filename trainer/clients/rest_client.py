"""`RestClient`: listings, checkpoints and downloads, by the SDK's methods. Every answer is there at once."""

# The scopes and projects of a service with many accounts are taken for the SDK's sake and change nothing here.
# ruff: noqa: ARG002

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from renderers import OptionError
from trainer.protocol import (
    CheckpointArchiveUrlResponse,
    CheckpointsListResponse,
    ExternalWeightsUrlsResponse,
    GetSamplerResponse,
    GetServerCapabilitiesResponse,
    GetSessionResponse,
    ListSessionsResponse,
    ParsedCheckpointTinkerPath,
    TrainingRun,
    TrainingRunsResponse,
    WeightsInfoResponse,
)
from trainer.service import Catalog

from .futures import APIFuture, completed

if TYPE_CHECKING:
    from .service_client import ServiceClient

__all__ = ["RestClient"]

AccessScope = Literal["owned", "accessible"]


def _checkpoint_path(training_run_id: str, checkpoint_id: str) -> str:
    return ParsedCheckpointTinkerPath.from_checkpoint_id(training_run_id, checkpoint_id).tinker_path


class RestClient:
    """What a service knows. Without a `ServiceClient` it is that of the default service.

    In one process there is one account, so `access_scope` and `project_id` change nothing.
    """

    def __init__(
        self, owner: ServiceClient | None = None, *, base_url: str | None = None, api_key: str | None = None
    ) -> None:
        if owner is None:
            from .service_client import ServiceClient

            owner = ServiceClient(base_url=base_url, api_key=api_key)
        self._owner = owner
        self._catalog = Catalog(owner.service)

    # ---- models and sessions

    def get_server_capabilities(self) -> APIFuture[GetServerCapabilitiesResponse]:
        return completed(self._catalog.capabilities())

    def list_sessions(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> APIFuture[ListSessionsResponse]:
        """Newest first."""
        return completed(self._catalog.sessions(limit, offset))

    async def list_sessions_async(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned"
    ) -> ListSessionsResponse:
        return self._catalog.sessions(limit, offset)

    def get_session(self, session_id: str, access_scope: AccessScope = "owned") -> APIFuture[GetSessionResponse]:
        return completed(self._catalog.session(session_id))

    async def get_session_async(self, session_id: str, access_scope: AccessScope = "owned") -> GetSessionResponse:
        return self._catalog.session(session_id)

    def get_sampler(self, sampler_id: str) -> APIFuture[GetSamplerResponse]:
        return completed(self._catalog.sampler(sampler_id))

    async def get_sampler_async(self, sampler_id: str) -> GetSamplerResponse:
        return self._catalog.sampler(sampler_id)

    # ---- training runs

    def list_training_runs(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned", project_id: str | None = None
    ) -> APIFuture[TrainingRunsResponse]:
        """Newest first; runs of earlier processes are known by their checkpoints."""
        return completed(self._catalog.training_runs(limit, offset))

    async def list_training_runs_async(
        self, limit: int = 20, offset: int = 0, access_scope: AccessScope = "owned", project_id: str | None = None
    ) -> TrainingRunsResponse:
        return self._catalog.training_runs(limit, offset)

    def get_training_run(self, training_run_id: str, access_scope: AccessScope = "owned") -> APIFuture[TrainingRun]:
        return completed(self._catalog.training_run(training_run_id))

    async def get_training_run_async(self, training_run_id: str, access_scope: AccessScope = "owned") -> TrainingRun:
        return self._catalog.training_run(training_run_id)

    def get_training_run_by_tinker_path(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> APIFuture[TrainingRun]:
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        return completed(self._catalog.training_run(parsed.training_run_id))

    async def get_training_run_by_tinker_path_async(
        self, tinker_path: str, access_scope: AccessScope = "owned"
    ) -> TrainingRun:
        return await self.get_training_run_by_tinker_path(tinker_path, access_scope)

    # ---- checkpoints

    def list_checkpoints(self, training_run_id: str) -> APIFuture[CheckpointsListResponse]:
        """Of one run, oldest first."""
        return completed(self._catalog.checkpoints(training_run_id))

    async def list_checkpoints_async(self, training_run_id: str) -> CheckpointsListResponse:
        return self._catalog.checkpoints(training_run_id)

    def list_user_checkpoints(self, limit: int = 100, offset: int = 0) -> APIFuture[CheckpointsListResponse]:
        """Of every run, newest first."""
        return completed(self._catalog.all_checkpoints(limit, offset))

    async def list_user_checkpoints_async(self, limit: int = 100, offset: int = 0) -> CheckpointsListResponse:
        return self._catalog.all_checkpoints(limit, offset)

    def get_weights_info_by_tinker_path(self, tinker_path: str) -> APIFuture[WeightsInfoResponse]:
        return completed(self._catalog.weights_info(tinker_path))

    def delete_checkpoint(self, training_run_id: str, checkpoint_id: str) -> APIFuture[None]:
        return completed(self._catalog.delete(_checkpoint_path(training_run_id, checkpoint_id)))

    async def delete_checkpoint_async(self, training_run_id: str, checkpoint_id: str) -> None:
        self._catalog.delete(_checkpoint_path(training_run_id, checkpoint_id))

    def delete_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        return completed(self._catalog.delete(tinker_path))

    async def delete_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        self._catalog.delete(tinker_path)

    def publish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        """Mark as readable by every owner of the service."""
        return completed(self._catalog.set_public(tinker_path, True))

    async def publish_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        self._catalog.set_public(tinker_path, True)

    def unpublish_checkpoint_from_tinker_path(self, tinker_path: str) -> APIFuture[None]:
        return completed(self._catalog.set_public(tinker_path, False))

    async def unpublish_checkpoint_from_tinker_path_async(self, tinker_path: str) -> None:
        self._catalog.set_public(tinker_path, False)

    def set_checkpoint_ttl_from_tinker_path(self, tinker_path: str, ttl_seconds: int | None) -> APIFuture[None]:
        """Seconds from now; None keeps it."""
        return completed(self._catalog.set_ttl(tinker_path, ttl_seconds))

    async def set_checkpoint_ttl_from_tinker_path_async(self, tinker_path: str, ttl_seconds: int | None) -> None:
        self._catalog.set_ttl(tinker_path, ttl_seconds)

    # ---- downloads

    def download_checkpoint_archive_from_tinker_path(self, tinker_path: str) -> APIFuture[bytes]:
        """A `tar.gz` of the adapter, in memory."""
        return completed(self._catalog.archive(tinker_path))

    async def download_checkpoint_archive_from_tinker_path_async(self, tinker_path: str) -> bytes:
        return self._catalog.archive(tinker_path)

    def get_checkpoint_archive_url_from_tinker_path(self, tinker_path: str) -> APIFuture[CheckpointArchiveUrlResponse]:
        """A `file:` URL of such an archive, in a temporary folder of this client's session."""
        return completed(self._catalog.archive_url(tinker_path, self._owner.temporary_folder()))

    async def get_checkpoint_archive_url_from_tinker_path_async(self, tinker_path: str) -> CheckpointArchiveUrlResponse:
        return await self.get_checkpoint_archive_url_from_tinker_path(tinker_path)

    def get_checkpoint_archive_url(
        self, training_run_id: str, checkpoint_id: str
    ) -> APIFuture[CheckpointArchiveUrlResponse]:
        """The same, by run and checkpoint id."""
        return self.get_checkpoint_archive_url_from_tinker_path(_checkpoint_path(training_run_id, checkpoint_id))

    def get_external_weights_urls(self, tinker_path: str) -> APIFuture[ExternalWeightsUrlsResponse]:
        """`file:` URLs of the checkpoint's own files, by name."""
        parsed = ParsedCheckpointTinkerPath.from_tinker_path(tinker_path)
        if parsed.checkpoint_type != "external":
            raise OptionError(f"path: expected tinker://RUN/external_weights/NAME; got {tinker_path!r}")
        return completed(self._catalog.file_urls(tinker_path))

    async def get_external_weights_urls_async(self, tinker_path: str) -> ExternalWeightsUrlsResponse:
        return await self.get_external_weights_urls(tinker_path)

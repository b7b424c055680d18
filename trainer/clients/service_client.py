"""`ServiceClient`: the way in, by the SDK's methods, on models of this process."""

from __future__ import annotations

import atexit
import os
import tempfile
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from renderers import OptionError, UserError
from trainer.protocol import AdamOptimizerConfig, GetServerCapabilitiesResponse, LoraConfig
from trainer.service import FinishStatus, Service, ServiceOptions

from .futures import APIFuture, ServiceFuture
from .rest_client import RestClient
from .sampling_client import SamplingClient
from .training_client import TrainingClient

__all__ = ["ServiceClient"]


class _Services:
    """The services of this process: clients with equal options share one, as clients of one server would."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._services: dict[ServiceOptions, tuple[Service, int]] = {}

    def acquire(self, options: ServiceOptions) -> Service:
        with self._lock:
            service, count = self._services.get(options, (None, 0))
            if service is None or service.is_closed:
                service, count = Service(options), 0
            self._services[options] = (service, count + 1)
            return service

    def release(self, service: Service) -> None:
        """The last client's release closes the service, after what it was asked."""
        with self._lock:
            kept, count = self._services.get(service.options, (None, 0))
            if kept is not service:
                return
            if count > 1:
                self._services[service.options] = (service, count - 1)
                return
            del self._services[service.options]
        service.close()

    def close_all(self) -> None:
        """At exit: what was asked and not waited for (a last `save_state`) still runs."""
        with self._lock:
            services = [service for service, _ in self._services.values()]
            self._services.clear()
        for service in services:
            service.close()


_services = _Services()
atexit.register(_services.close_all)


class _Holder:
    """What SDK code reaches through `service_client.holder`."""

    def __init__(self, owner: ServiceClient) -> None:
        self._owner = owner

    def get_session_id(self) -> str:
        return self._owner.session_id


class ServiceClient:
    """Training and sampling on base models in this process; the base is loaded at its first use.

    Clients with equal options share one service, and so one copy of each base.

    Args:
        user_metadata, project_id, display_name: kept with the session.
        base_model: the one model to serve, a folder or hub id.
        models: several, by the name that callers use. With neither, any name is a folder or hub id.
        dtype: `float32` or `bfloat16`; None is bfloat16 on CUDA and float32 on CPU.
        device: `cpu`, `cuda` or `cuda:N`; None is CUDA where there is one.
        checkpoint_dir: where checkpoints live; `$DATUMLOOM_HOME/checkpoints` or the user's data folder by default.
        alpha: LoRA's numerator for adapters made here.
        tokens_per_pass, memory_bytes: budgets of a pass; the device's own by default.
        shard_base: in a group of processes, spread the base over their devices; by default where one is too small.
        sampler: options of the sampler, by its argument names.
        base_url: refused; `connect(base_url=…)` reaches a server.
        api_key, default_headers_overrides: taken for the SDK's sake; one process has no door to guard.

    Raises:
        OptionError: an option is impossible.
    """

    def __init__(
        self,
        user_metadata: dict[str, str] | None = None,
        project_id: str | None = None,
        *,
        display_name: str | None = None,
        base_url: str | None = None,
        api_key: str | None = None,
        default_headers_overrides: Mapping[str, str] | None = None,
        base_model: str | os.PathLike[str] | None = None,
        models: Mapping[str, str | os.PathLike[str]] | None = None,
        dtype: str | None = None,
        device: str | None = None,
        checkpoint_dir: str | os.PathLike[str] | None = None,
        alpha: float | None = None,
        tokens_per_pass: int | None = None,
        memory_bytes: int | None = None,
        shard_base: bool | None = None,
        sampler: Mapping[str, Any] | None = None,
    ) -> None:
        del api_key, default_headers_overrides
        if base_url:
            raise OptionError(f"base_url: ServiceClient runs in this process; use connect(base_url={base_url!r})")
        options = ServiceOptions.of(
            base_model=base_model,
            models=models,
            dtype=dtype,
            device=device,
            checkpoint_dir=checkpoint_dir,
            alpha=alpha,
            tokens_per_pass=tokens_per_pass,
            memory_bytes=memory_bytes,
            shard_base=shard_base,
            sampler=sampler,
        )
        self.service = _services.acquire(options)
        self._session: dict[str, Any] = {
            "user_metadata": user_metadata,
            "project_id": project_id,
            "display_name": display_name,
        }
        self._session_id: str | None = None
        self._temporary: tempfile.TemporaryDirectory[str] | None = None
        self._lock = threading.Lock()
        self._closed = False

    # ---- the session

    @property
    def session_id(self) -> str:
        """The session's id; made at its first use."""
        with self._lock:
            if self._closed:
                raise UserError("ServiceClient: it is closed")
            if self._session_id is None:
                self._session_id = self.service.create_session(**self._session).session_id
            return self._session_id

    @property
    def holder(self) -> _Holder:
        return _Holder(self)

    def temporary_folder(self) -> Path:
        """A folder that lives as long as this client."""
        with self._lock:
            if self._temporary is None:
                self._temporary = tempfile.TemporaryDirectory(prefix="datumloom-", ignore_cleanup_errors=True)
            return Path(self._temporary.name)

    def close(self, status: FinishStatus = "success", detail: str | None = None) -> APIFuture[None]:
        """Finish the session: what was asked still runs, then its models are released."""
        ended: Future[None] = Future()
        with self._lock:
            first, self._closed = not self._closed, True
            session_id, temporary = self._session_id, self._temporary
            self._temporary = None
        if not first:
            ended.set_result(None)
            return ServiceFuture(ended)
        tickets = [] if session_id is None else self.service.finish_session(session_id, status, detail)

        def end() -> None:
            try:
                for ticket in tickets:
                    ticket.future.exception()
                _services.release(self.service)
                if temporary is not None:
                    temporary.cleanup()
                ended.set_result(None)
            except BaseException as error:
                ended.set_exception(error)

        threading.Thread(target=end, name="datumloom-close").start()
        return ServiceFuture(ended)

    def __enter__(self) -> Self:
        if self._closed:
            raise UserError("ServiceClient: it is closed")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del error, traceback
        self.close(_status_of(kind)).result()

    async def __aenter__(self) -> Self:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        del error, traceback
        await self.close(_status_of(kind))

    # ---- training

    def create_lora_training_client(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: dict[str, str] | None = None,
        optimizer: Any = None,
    ) -> TrainingClient:
        """A new adapter to train.

        Args:
            base_model: a served name; see `models`.
            rank: of every low-rank pair.
            seed: of A; None draws one.
            train_mlp, train_attn, train_unembed: what gets pairs.
            user_metadata: kept with the training run.
            optimizer: None or `AdamOptimizerConfig`.

        Returns:
            the client, which is also the future of itself.

        Raises:
            OptionError: the model is not served, a value is impossible.
        """
        _check_optimizer(optimizer)
        lora = LoraConfig(rank, seed, train_unembed, train_mlp, train_attn)
        created = self.service.create_model(self.session_id, base_model, lora, user_metadata=user_metadata)
        return TrainingClient(self, self.service, created)

    async def create_lora_training_client_async(
        self,
        base_model: str,
        rank: int = 32,
        seed: int | None = None,
        train_mlp: bool = True,
        train_attn: bool = True,
        train_unembed: bool = True,
        user_metadata: dict[str, str] | None = None,
        optimizer: Any = None,
    ) -> TrainingClient:
        """`create_lora_training_client`, ready."""
        return await self.create_lora_training_client(
            base_model, rank, seed, train_mlp, train_attn, train_unembed, user_metadata, optimizer
        )

    def create_training_client_from_state(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: Any = None,
    ) -> TrainingClient:
        """A new adapter that starts from a training checkpoint's weights; the optimizer starts afresh.

        Raises:
            NotFoundError: there is no such checkpoint.
            OptionError: the path is not one of training weights, the base model is not served.
        """
        del weights_access_token
        _check_optimizer(optimizer)
        return self._from_state(path, base_model, user_metadata, optimizer=False)

    async def create_training_client_from_state_async(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
        optimizer: Any = None,
    ) -> TrainingClient:
        """`create_training_client_from_state`, ready."""
        return await self.create_training_client_from_state(
            path, base_model, user_metadata, weights_access_token, optimizer
        )

    def create_training_client_from_state_with_optimizer(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> TrainingClient:
        """The same with moments and step count: training goes on exactly where it was saved."""
        del weights_access_token
        return self._from_state(path, base_model, user_metadata, optimizer=True)

    async def create_training_client_from_state_with_optimizer_async(
        self,
        path: str,
        base_model: str | None = None,
        user_metadata: dict[str, str] | None = None,
        weights_access_token: str | None = None,
    ) -> TrainingClient:
        """`create_training_client_from_state_with_optimizer`, ready."""
        return await self.create_training_client_from_state_with_optimizer(
            path, base_model, user_metadata, weights_access_token
        )

    def _from_state(
        self, path: str, base_model: str | None, user_metadata: dict[str, str] | None, *, optimizer: bool
    ) -> TrainingClient:
        created = self.service.create_model_from_state(
            self.session_id, path, optimizer=optimizer, base_model=base_model, user_metadata=user_metadata
        )
        return TrainingClient(self, self.service, created)

    # ---- sampling

    def create_sampling_client(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """A client of a checkpoint's weights, or of a base model.

        Returns:
            the client, which is also the future of itself.

        Raises:
            NotFoundError: there is no such checkpoint.
            OptionError: neither is given, the base model is not served.
        """
        del retry_config
        if record_stability_info:
            raise OptionError("record_stability_info: expected False; nothing here records it")
        record, created = self.service.create_sampling_session(
            self.session_id, base_model=base_model, model_path=model_path
        )
        return SamplingClient(self, self.service, record, created)

    async def create_sampling_client_async(
        self,
        model_path: str | None = None,
        base_model: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
    ) -> SamplingClient:
        """`create_sampling_client`, ready."""
        return await self.create_sampling_client(model_path, base_model, retry_config, record_stability_info)

    # ---- about it

    def create_rest_client(self) -> RestClient:
        """Listings, checkpoints, downloads."""
        return RestClient(self)

    def get_server_capabilities(self) -> GetServerCapabilitiesResponse:
        """The models served."""
        return self.create_rest_client().get_server_capabilities().result()

    async def get_server_capabilities_async(self) -> GetServerCapabilitiesResponse:
        """`get_server_capabilities`."""
        return self.get_server_capabilities()


def _status_of(kind: type[BaseException] | None) -> FinishStatus:
    if kind is None:
        return "success"
    return "errored" if issubclass(kind, Exception) else "interrupted"


def _check_optimizer(optimizer: Any) -> None:
    if optimizer is None or isinstance(optimizer, AdamOptimizerConfig):
        return
    if getattr(optimizer, "type", None) != "adamw":
        raise OptionError(f"optimizer: expected None or AdamOptimizerConfig; got {optimizer!r}")

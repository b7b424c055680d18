"""`TrainingClient`: one LoRA adapter being trained, by the SDK's methods.

Every method gives its future at once; the order of calls is the order of execution, so `forward_backward` may be
followed by `optim_step` before either is waited for. What the caller can mend raises at the call, the field named.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from renderers import OptionError
from trainer.protocol import (
    ForwardBackwardOutput,
    GetInfoResponse,
    LoadWeightsResponse,
    LossFnConfig,
    OptimStepResponse,
    SaveWeightsExternalResponse,
    SaveWeightsForSamplerResponse,
    SaveWeightsResponse,
)
from trainer.service import Abandoned, Service, Ticket

from .convert import to_adam_params, to_data
from .custom_loss import CustomLossFn, run_custom_loss
from .futures import APIFuture, ClientFuture, ServiceFuture
from .sampling_client import SamplingClient
from .tokenizers import load_tokenizer

if TYPE_CHECKING:
    from .service_client import ServiceClient

__all__ = ["TrainingClient"]


class TrainingClient(ClientFuture):
    """One training run. Made by `ServiceClient.create_lora_training_client` and its kin.

    Attributes:
        model_id: the training run's id.
    """

    def __init__(self, owner: ServiceClient, service: Service, created: Ticket[str]) -> None:
        super().__init__(created.future)
        self.model_id = created.model_id
        self._owner = owner  # keeps the session alive as long as a client of it is held
        self._service = service
        # At exit the service runs everything that was asked, so nothing is let go of then.
        weakref.finalize(self, service.abandon, Abandoned(self.model_id, False, created)).atexit = False

    # ---- gradients

    def forward(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: LossFnConfig | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Logprobs and loss; nothing is accumulated.

        Args:
            data: datums, ours or the SDK's.
            loss_fn: such as `cross_entropy`.
            loss_fn_config: the loss's own keys.

        Raises:
            UserError: unknown loss, missing input, wrong length …; the field is named.
        """
        self.result()
        ticket = self._service.forward(self.model_id, to_data(data), loss_fn, loss_fn_config)
        return ServiceFuture(ticket.future)

    async def forward_async(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: LossFnConfig | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """`forward`; awaiting gives the future."""
        return self.forward(data, loss_fn, loss_fn_config)

    def forward_backward(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: LossFnConfig | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """`forward`, and gradients accumulated until `optim_step`. The loss is a sum over tokens and datums."""
        self.result()
        ticket = self._service.forward_backward(self.model_id, to_data(data), loss_fn, loss_fn_config)
        return ServiceFuture(ticket.future)

    async def forward_backward_async(
        self, data: Sequence[Any], loss_fn: str, loss_fn_config: LossFnConfig | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """`forward_backward`; awaiting gives the future."""
        return self.forward_backward(data, loss_fn, loss_fn_config)

    def forward_backward_custom(
        self, data: Sequence[Any], loss_fn: CustomLossFn, *, loss_type_input: Literal["logprobs"] | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """Gradients of a loss that the caller computes.

        Args:
            data: datums with `target_tokens`; other inputs are for the loss function.
            loss_fn: gets the datums as passed and one float32 torch tensor of logprobs per datum (shaped as its
                `target_tokens`), gives a scalar tensor and a dict of metrics. It runs on a thread of its own.
            loss_type_input: None or `logprobs`.

        Returns:
            metrics: the loss function's own, `loss:sum` its loss, `surrogate_loss:sum` what the backward pass computed.
            When the function fails, the future raises its error, and the next `optim_step` is refused.
        """
        if loss_type_input not in (None, "logprobs"):
            raise OptionError(f"loss_type_input: expected None or logprobs; got {loss_type_input!r}")
        self.result()
        converted = to_data(data)
        return ServiceFuture(run_custom_loss(self._service, self.model_id, list(data), converted, loss_fn))

    async def forward_backward_custom_async(
        self, data: Sequence[Any], loss_fn: CustomLossFn, *, loss_type_input: Literal["logprobs"] | None = None
    ) -> APIFuture[ForwardBackwardOutput]:
        """`forward_backward_custom`; awaiting gives the future."""
        return self.forward_backward_custom(data, loss_fn, loss_type_input=loss_type_input)

    def optim_step(self, optim_params: Any = None, *, adam_params: Any = None) -> APIFuture[OptimStepResponse]:
        """One AdamW step from the accumulated gradients, which it clears.

        Refused, with the gradients cleared, when a `forward_backward` before it failed.

        Args:
            optim_params: `AdamParams`, ours or the SDK's.
            adam_params: another name for it.
        """
        if (optim_params is None) == (adam_params is None):
            raise OptionError("optim_params: expected AdamParams once, as optim_params or as adam_params")
        params = to_adam_params(optim_params if adam_params is None else adam_params)
        self.result()
        return ServiceFuture(self._service.optim_step(self.model_id, params).future)

    async def optim_step_async(
        self, optim_params: Any = None, *, adam_params: Any = None
    ) -> APIFuture[OptimStepResponse]:
        """`optim_step`; awaiting gives the future."""
        return self.optim_step(optim_params, adam_params=adam_params)

    # ---- checkpoints

    def save_state(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> APIFuture[SaveWeightsResponse]:
        """Weights and moments as they are here in the order of calls; on the disk when the future is done.

        Accumulated gradients are not saved: a checkpoint lies between steps.

        Raises:
            OptionError: the name is illegal, or taken and not to be overwritten; the TTL is out of range.
        """
        return self._save("training", name, ttl_seconds, overwrite, user_metadata)

    async def save_state_async(
        self,
        name: str,
        ttl_seconds: int | None = None,
        overwrite: bool = False,
        user_metadata: dict[str, str] | None = None,
    ) -> APIFuture[SaveWeightsResponse]:
        """`save_state`; awaiting gives the future."""
        return self.save_state(name, ttl_seconds, overwrite, user_metadata)

    def save_weights_for_sampler(
        self, name: str, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> APIFuture[SaveWeightsForSamplerResponse]:
        """Weights alone, for `create_sampling_client(model_path=…)`. Raises as `save_state`."""
        return self._save("sampler", name, ttl_seconds, False, user_metadata)

    async def save_weights_for_sampler_async(
        self, name: str, ttl_seconds: int | None = None, user_metadata: dict[str, str] | None = None
    ) -> APIFuture[SaveWeightsForSamplerResponse]:
        """`save_weights_for_sampler`; awaiting gives the future."""
        return self.save_weights_for_sampler(name, ttl_seconds, user_metadata)

    def save_weights_external(
        self, name: str, ttl_seconds: int | None = None, age_encryption_recipients: list[str] | None = None
    ) -> APIFuture[SaveWeightsExternalResponse]:
        """A PEFT folder for other tools. Raises as `save_state`; encryption is refused."""
        if age_encryption_recipients:
            raise OptionError("age_encryption_recipients: expected none, for files are written as they are")
        return self._save("external", name, ttl_seconds, False, None)

    async def save_weights_external_async(
        self, name: str, ttl_seconds: int | None = None, age_encryption_recipients: list[str] | None = None
    ) -> APIFuture[SaveWeightsExternalResponse]:
        """`save_weights_external`; awaiting gives the future."""
        return self.save_weights_external(name, ttl_seconds, age_encryption_recipients)

    def _save(
        self,
        kind: Literal["training", "sampler", "external"],
        name: str,
        ttl_seconds: int | None,
        overwrite: bool,
        user_metadata: dict[str, str] | None,
    ) -> APIFuture[Any]:
        self.result()
        ticket = self._service.save(
            self.model_id,
            kind,
            name,
            ttl_seconds=ttl_seconds,
            overwrite=overwrite,
            user_metadata=user_metadata,
        )
        return ServiceFuture(ticket.future)

    def load_state(self, path: str, weights_access_token: str | None = None) -> APIFuture[LoadWeightsResponse]:
        """Replace the weights by a training checkpoint's; the optimizer starts afresh."""
        return self._load(path, weights_access_token, optimizer=False)

    async def load_state_async(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """`load_state`; awaiting gives the future."""
        return self.load_state(path, weights_access_token)

    def load_state_with_optimizer(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """Replace weights, moments and step count by a training checkpoint's."""
        return self._load(path, weights_access_token, optimizer=True)

    async def load_state_with_optimizer_async(
        self, path: str, weights_access_token: str | None = None
    ) -> APIFuture[LoadWeightsResponse]:
        """`load_state_with_optimizer`; awaiting gives the future."""
        return self.load_state_with_optimizer(path, weights_access_token)

    def _load(self, path: str, token: str | None, *, optimizer: bool) -> APIFuture[LoadWeightsResponse]:
        del token  # there are no other accounts in one process
        self.result()
        return ServiceFuture(self._service.load(self.model_id, path, optimizer=optimizer).future)

    # ---- sampling

    def create_sampling_client(
        self, model_path: str, retry_config: Any = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """A client of saved weights; see `ServiceClient.create_sampling_client`."""
        return self._owner.create_sampling_client(
            model_path, retry_config=retry_config, record_stability_info=record_stability_info
        )

    async def create_sampling_client_async(
        self, model_path: str, retry_config: Any = None, record_stability_info: bool = False
    ) -> SamplingClient:
        """`create_sampling_client`, ready."""
        return await self.create_sampling_client(model_path, retry_config, record_stability_info)

    def save_weights_and_get_sampling_client(
        self,
        name: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
        kind: Literal["snapshot", "inflight"] = "snapshot",
    ) -> SamplingClient:
        """A client of the weights as they are here in the order of calls.

        Args:
            name: also keep them as a sampler checkpoint of that name (an older one of the same name is replaced);
                the client's `model_path` is its path.
            retry_config: taken for the SDK's sake; nothing needs retrying in one process.
            record_stability_info: refused when True.
            kind: `snapshot`: later steps never touch them. `inflight`: all such clients of this model sample from the
                weights of the last one made.
        """
        del retry_config
        if record_stability_info:
            raise OptionError("record_stability_info: expected False; nothing here records it")
        if kind not in ("snapshot", "inflight"):
            raise OptionError(f"kind: expected snapshot or inflight; got {kind!r}")
        self.result()
        kept = None if name is None else self._save("sampler", name, None, True, None)
        record, created = self._service.snapshot(self.model_id, inflight=kind == "inflight")
        return SamplingClient(
            self._owner,
            self._service,
            record,
            created,
            kept=None if kept is None else kept.future(),
            model_path=None if name is None else f"tinker://{self.model_id}/sampler_weights/{name}",
        )

    async def save_weights_and_get_sampling_client_async(
        self,
        name: str | None = None,
        retry_config: Any = None,
        record_stability_info: bool = False,
        kind: Literal["snapshot", "inflight"] = "snapshot",
    ) -> SamplingClient:
        """`save_weights_and_get_sampling_client`, ready."""
        return await self.save_weights_and_get_sampling_client(name, retry_config, record_stability_info, kind)

    # ---- about it

    def get_info(self) -> GetInfoResponse:
        """Base model, rank, alpha."""
        self.result()
        return self._service.get_info(self.model_id)

    async def get_info_async(self) -> GetInfoResponse:
        """`get_info`."""
        await self
        return self._service.get_info(self.model_id)

    def get_tokenizer(self) -> Any:
        """The base model's tokenizer, as transformers loads it; raises `MissingExtraError` without transformers."""
        data = self.get_info().model_data
        return load_tokenizer(data.tokenizer_id or data.model_name or "")

    def __repr__(self) -> str:
        return f"<TrainingClient {self.model_id}>"

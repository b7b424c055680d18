"""`SamplingClient`: samples and logprobs of one set of weights, by the SDK's methods."""

from __future__ import annotations

import weakref
from concurrent.futures import Future
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from renderers import OptionError
from trainer.protocol import SampleResponse, SamplingParams
from trainer.service import Abandoned, Sample, SamplerRecord, Service, Ticket

from .convert import to_prompt, to_sampling_params
from .futures import APIFuture, ClientFuture, ServiceFuture, joined, mapped
from .tokenizers import load_tokenizer

if TYPE_CHECKING:
    from .service_client import ServiceClient

__all__ = ["SamplingClient"]


class SamplingClient(ClientFuture):
    """One sampling session.

    Attributes:
        model_path: the checkpoint's path, or None for a base model and for weights that were not kept.
        sampling_session_id: its name in the service.
    """

    def __init__(
        self,
        owner: ServiceClient,
        service: Service,
        record: SamplerRecord,
        created: Ticket[str],
        *,
        kept: Future[Any] | None = None,
        model_path: str | None = None,
    ) -> None:
        super().__init__(created.future if kept is None else joined(created.future, kept))
        self.model_path = model_path or record.model_path
        self.sampling_session_id = record.sampler_id
        self._base_model = record.base_model
        self._owner = owner  # keeps the session alive as long as a client of it is held
        self._service = service
        weakref.finalize(self, service.abandon, Abandoned(record.sampler_id, True, created)).atexit = False

    def sample(
        self,
        prompt: Any,
        num_samples: int,
        sampling_params: Any,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: Any = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> APIFuture[SampleResponse]:
        """Continue a prompt.

        Args:
            prompt: a `ModelInput` of text, ours or the SDK's.
            num_samples: how many samples share it.
            sampling_params: `SamplingParams`, ours or the SDK's.
            include_prompt_logprobs: score the prompt's own tokens.
            topk_prompt_logprobs, topk_sample_logprobs: report so many likeliest tokens per position.
            target_prompt_logprobs, prompt_alt_tokens_k: refused; nothing here computes them.
            prompt_logprobs_last_n: report only the last n of the prompt's logprobs.

        Raises:
            UserError: a value is impossible; the field is named.
        """
        if target_prompt_logprobs is not None:
            raise OptionError("target_prompt_logprobs: expected None; nothing here computes them")
        if prompt_alt_tokens_k:
            raise OptionError(f"prompt_alt_tokens_k: expected 0; nothing here draws them; got {prompt_alt_tokens_k!r}")
        operation = Sample(
            sampler_id=self.sampling_session_id,
            prompt=to_prompt(prompt),
            params=to_sampling_params(sampling_params),
            num_samples=num_samples,
            prompt_logprobs=include_prompt_logprobs,
            topk_prompt_logprobs=topk_prompt_logprobs,
            topk_sample_logprobs=topk_sample_logprobs,
        )
        last_n = _check_last_n(prompt_logprobs_last_n, len(operation.prompt), include_prompt_logprobs)
        self.result()
        future = self._service.sample(operation).future
        if last_n is not None:
            return ServiceFuture(mapped(future, lambda response: _only_last(response, last_n)))
        return ServiceFuture(future)

    async def sample_async(
        self,
        prompt: Any,
        num_samples: int,
        sampling_params: Any,
        include_prompt_logprobs: bool = False,
        topk_prompt_logprobs: int = 0,
        topk_sample_logprobs: int = 0,
        target_prompt_logprobs: Any = None,
        prompt_alt_tokens_k: int = 0,
        prompt_logprobs_last_n: int | None = None,
    ) -> SampleResponse:
        """`sample`, done."""
        return await self.sample(
            prompt,
            num_samples,
            sampling_params,
            include_prompt_logprobs,
            topk_prompt_logprobs,
            topk_sample_logprobs,
            target_prompt_logprobs,
            prompt_alt_tokens_k,
            prompt_logprobs_last_n,
        )

    def compute_logprobs(self, prompt: Any, prompt_logprobs_last_n: int | None = None) -> APIFuture[list[float | None]]:
        """The logprob of every token of the prompt given those before it; the first is None."""
        future = self.sample(
            prompt,
            1,
            SamplingParams(max_tokens=0),
            include_prompt_logprobs=True,
            prompt_logprobs_last_n=prompt_logprobs_last_n,
        ).future()
        return ServiceFuture(mapped(future, _prompt_logprobs))

    async def compute_logprobs_async(
        self, prompt: Any, prompt_logprobs_last_n: int | None = None
    ) -> list[float | None]:
        """`compute_logprobs`, done."""
        return await self.compute_logprobs(prompt, prompt_logprobs_last_n)

    def get_base_model(self) -> str:
        """The base model's name."""
        return self._base_model

    async def get_base_model_async(self) -> str:
        """`get_base_model`."""
        return self._base_model

    def get_tokenizer(self) -> Any:
        """The base model's tokenizer, as transformers loads it; raises `MissingExtraError` without transformers."""
        return load_tokenizer(self._service.options.place_of(self._base_model))

    def __repr__(self) -> str:
        return f"<SamplingClient {self.sampling_session_id} of {self.model_path or self._base_model}>"


def _check_last_n(last_n: int | None, length: int, include_prompt_logprobs: bool) -> int | None:
    if last_n is None:
        return None
    if not include_prompt_logprobs:
        raise OptionError("prompt_logprobs_last_n: expected include_prompt_logprobs=True beside it; got False")
    if not isinstance(last_n, int) or isinstance(last_n, bool) or not 1 <= last_n < length:
        raise OptionError(f"prompt_logprobs_last_n: expected 1 to {length - 1}; got {last_n!r}")
    return last_n


def _only_last(response: SampleResponse, last_n: int) -> SampleResponse:
    values = response.prompt_logprobs_np
    assert values is not None
    kept = values.copy()
    kept[:-last_n] = np.nan
    return replace(response, prompt_logprobs_np=kept)


def _prompt_logprobs(response: SampleResponse) -> list[float | None]:
    assert response.prompt_logprobs is not None
    return response.prompt_logprobs

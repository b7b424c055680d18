"""Asking a model: a conversation rendered by the model's renderer, sampled in portions, parsed as it arrives."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from renderers import (
    Delta,
    EncodedTextChunk,
    Message,
    ModelInput,
    ParseTermination,
    Renderer,
    ResponseEnd,
    ToolSpec,
)

from .wire import Wire

__all__ = ["Answer", "Speaker", "SpeakingOptions"]

# Sampling has no streaming call, so an answer is asked for in portions; the prompt's keys and values are kept.
_PORTION = 16


@dataclass(frozen=True)
class SpeakingOptions:
    """How to sample.

    Attributes:
        max_tokens: most new tokens.
        temperature: 0 takes the likeliest.
        top_p, top_k: filters; 1.0 and -1 are none.
        seed: None draws one.
    """

    max_tokens: int = 256
    temperature: float = 0.7
    top_p: float = 1.0
    top_k: int = -1
    seed: int | None = None


@dataclass
class Answer:
    """A finished turn.

    Attributes:
        message: as the renderer parsed it.
        termination: how it ended.
        tokens: what was sampled.
    """

    message: Message
    termination: ParseTermination
    tokens: list[int] = field(default_factory=list[int])


class Speaker:
    """One set of weights and the renderer of its model."""

    def __init__(self, client: Any, renderer: Renderer, wire: Wire) -> None:
        self._client = client
        self._renderer = renderer
        self._wire = wire
        stops: list[Any] = list(renderer.get_stop_sequences())
        if not any(isinstance(stop, str) for stop in stops):
            # A model that has not learnt the family's turns yet ends with its own end token.
            stops += [token for token in renderer.tokenizer.generation_stop_tokens if token not in stops]
        self._stops = stops

    def answer(
        self,
        messages: Sequence[Message],
        options: SpeakingOptions,
        tools: Sequence[ToolSpec] | None = None,
        *,
        in_portions: bool = False,
    ) -> Answer:
        """The whole turn.

        Args:
            messages: the conversation so far.
            options: how to sample.
            tools: declarations.
            in_portions: ask as `stream` does, which draws other tokens for the same seed than asking once.
        """
        prompt = self._renderer.build_generation_prompt(messages, tools=tools)
        tokens = [token for part in self._portions(prompt, options, whole=not in_portions) for token in part]
        message, termination = self._renderer.parse_response(tokens, prompt_tokens=prompt.to_ints(), tools=tools)
        return Answer(message, termination, tokens)

    def stream(
        self, messages: Sequence[Message], options: SpeakingOptions, tools: Sequence[ToolSpec] | None = None
    ) -> Iterator[Delta]:
        """Deltas as tokens come, a `ResponseEnd` last.

        Raises:
            UserError: the template refuses the messages, or the prompt does not fit the model's context.
        """
        prompt = self._renderer.build_generation_prompt(messages, tools=tools)
        parser = self._renderer.stream_parser(prompt_tokens=prompt.to_ints(), tools=tools)
        for tokens in self._portions(prompt, options, whole=False):
            yield from parser.feed(tokens)
        yield from parser.close()
        message, termination = parser.finish()
        yield ResponseEnd(message, termination)

    def _portions(self, prompt: ModelInput, options: SpeakingOptions, *, whole: bool) -> Iterator[list[int]]:
        """Sampled tokens until a stop, `max_tokens` or the context's end."""
        # A stop string may lie across two portions, so with any the answer comes in one.
        whole = whole or any(isinstance(stop, str) for stop in self._stops)
        left, part = options.max_tokens, 0
        while left > 0:
            size = left if whole else min(_PORTION, left)
            seed = None if options.seed is None else options.seed + part
            tokens = self._sample(prompt, options, size, seed)
            yield tokens
            if len(tokens) < size or tokens[-1] in self._stops:
                return
            prompt = prompt.append(EncodedTextChunk(tokens))
            left, part = left - len(tokens), part + 1

    def _sample(self, prompt: ModelInput, options: SpeakingOptions, max_tokens: int, seed: int | None) -> list[int]:
        params = self._wire.sampling_params(
            max_tokens=max_tokens,
            temperature=options.temperature,
            top_p=options.top_p,
            top_k=options.top_k,
            seed=seed,
            stop=self._stops,
        )
        return list(self._client.sample(self._wire.prompt(prompt), 1, params).result().sequences[0].tokens)

"""What a chat template does, found out by asking it: what closes a turn, which tokens stop it, what it can read."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

from .errors import RefusedError
from .jinja_template import ChatTemplateSource
from .messages import Message, ToolSpec
from .parsing import ResponseFormat
from .parsing.probe import probe_format
from .template_probes import keeps_history
from .tokenizer import ControlToken, Tokenizer

__all__ = ["TemplateFacts"]

_PROBE_USER: Message = {"role": "user", "content": "Hello"}
_PROBE = "zqxprobe"
_PROBE_CALL: Any = {"type": "function", "id": "abcde1234", "function": {"name": _PROBE, "arguments": {"key": _PROBE}}}


class TemplateFacts:
    """Facts about one template with one tokenizer, each found out once."""

    def __init__(self, template: ChatTemplateSource, tokenizer: Tokenizer) -> None:
        self._template = template
        self._tokenizer = tokenizer

    def probe(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] | None = None,
        *,
        generation: bool = False,
    ) -> str | None:
        """The text, None where the template refuses."""
        try:
            return self._template.render(messages, tools, add_generation_prompt=generation)
        except RefusedError:
            return None

    @cached_property
    def closing(self) -> str:
        """What the template writes after an assistant's content when that is the last message."""
        prompt = self.probe([_PROBE_USER], generation=True)
        turn = self.probe([_PROBE_USER, {"role": "assistant", "content": _PROBE}])
        if prompt is None or turn is None or _PROBE not in turn:
            return ""
        return turn[turn.rindex(_PROBE) + len(_PROBE) :]

    @cached_property
    def rest(self) -> str:
        """The part of `closing` after the stop token: written by the template, never sampled."""
        parts = self._tokenizer.split(self.closing)
        for i, part in enumerate(parts):
            if isinstance(part, ControlToken):
                return "".join(p if isinstance(p, str) else p.text for p in parts[i + 1 :])
        return ""

    @cached_property
    def generation_suffix(self) -> str:
        """What the generation prompt adds to a rendering without it; empty when it does more than add."""
        without, prompt = self.probe([_PROBE_USER]), self.probe([_PROBE_USER], generation=True)
        if without is None or prompt is None or not prompt.startswith(without):
            return ""
        return prompt[len(without) :]

    @cached_property
    def stops(self) -> list[ControlToken]:
        """Tokens that end a turn: by the template's closing, tool calls included, then by the model's own settings."""
        tokenizer = self._tokenizer
        configured = set(tokenizer.generation_stop_tokens)
        by_config = [t for t in tokenizer.control.values() if t.id in configured]
        eos = [t for t in tokenizer.control.values() if t.text == tokenizer.eos_token]
        return list(dict.fromkeys((*self.written_stops, *by_config, *eos)))

    @cached_property
    def stop_texts(self) -> frozenset[str]:
        return frozenset(token.text for token in self.stops)

    @cached_property
    def written_stops(self) -> list[ControlToken]:
        """Tokens that the template writes at the end of an answer and of a call."""
        called = self.probe([_PROBE_USER, {"role": "assistant", "content": "", "tool_calls": [_PROBE_CALL]}]) or ""
        after_call = called[called.rindex(_PROBE) + len(_PROBE) :] if _PROBE in called else ""
        last_of_call = [part for part in self._tokenizer.split(after_call) if isinstance(part, ControlToken)][-1:]
        first_of_text = [part for part in self._tokenizer.split(self.closing) if isinstance(part, ControlToken)][:1]
        inside = self.response_format.marks  # a mark around a call ends the call, not the turn
        return [token for token in dict.fromkeys((*first_of_text, *last_of_call)) if token.text not in inside]

    @cached_property
    def arguments_as_text(self) -> bool:
        """Whether the template takes tool-call arguments as JSON text only."""
        function = {**_PROBE_CALL["function"], "arguments": f'{{"key": "{_PROBE}"}}'}
        return not self._writes_call(_PROBE_CALL) and self._writes_call({**_PROBE_CALL, "function": function})

    def _writes_call(self, call: Any) -> bool:
        bare: Message = {"role": "assistant", "tool_calls": [call]}
        empty: Message = {"role": "assistant", "tool_calls": [call], "content": ""}
        texts = (self.probe([_PROBE_USER, message]) for message in (bare, empty))
        return any(text is not None and text.count(_PROBE) >= 2 for text in texts)

    @cached_property
    def takes_parts(self) -> bool:
        """Whether a list of text parts renders as the parts' text, and not as nothing or as a Python list."""
        parts: list[Any] = [{"type": "text", "text": _PROBE}, {"type": "text", "text": "Hello"}]
        text = self.probe([{"role": "user", "content": parts}])
        return text is not None and _PROBE in text and "'text'" not in text and '"text"' not in text

    @cached_property
    def response_format(self) -> ResponseFormat:
        """How turns are parsed; its `name` says what was found."""
        return probe_format(self._tokenizer, self.probe)

    @cached_property
    def keeps_history(self) -> bool:
        """Whether probe conversations (plain, with reasoning, tools, a system message) only ever grow at their end."""
        return keeps_history(self.probe, self.rest)

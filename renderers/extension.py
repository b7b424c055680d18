"""Multi-turn extension: the next prompt of a conversation as the last prompt, what was sampled, and what follows.

Rendering a conversation again may give other tokens than were sampled: another split of the same text, or other text,
where the template rewrites its history. An extension keeps the sampled tokens exactly. It is given only where the
template, shown the whole conversation, would still say what was said so far; otherwise there is a reason instead, and
the caller renders in full.

What follows a turn is found by rendering, not by knowledge of any family: a short conversation, the parsed turn and
the new messages. Whether *earlier* messages matter is found out the same way with conversations that have reasoning,
calls or a system message; if one of them does matter, the prompt's own control tokens may show that it has none.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from .errors import InputError
from .messages import Message, ToolSpec, check_messages
from .stretches import Stretches, Transition, starts_with, stretches, transitions

if TYPE_CHECKING:
    from .base import Renderer

__all__ = ["Extension", "extend"]

Messages = Sequence[Message] | Sequence[Mapping[str, Any]]

_USER: dict[str, Any] = {"role": "user", "content": "Hello"}
_CALL: dict[str, Any] = {"type": "function", "id": "call00001", "function": {"name": "look", "arguments": {"at": "it"}}}
_RESULT: dict[str, Any] = {"role": "tool", "content": "42", "tool_call_id": "call00001", "name": "look"}
_ANSWER: dict[str, Any] = {"role": "assistant", "content": "Yes."}
_THOUGHT: dict[str, Any] = {"reasoning_content": "Hm."}
_ASKS: dict[str, Any] = {"role": "assistant", "tool_calls": [_CALL]}
# Earlier messages that a template may write differently later on, or that may change what it writes later on.
_HISTORIES: dict[str, list[dict[str, Any]]] = {
    "an earlier answer": [_USER, _ANSWER, _USER],
    "earlier reasoning": [_USER, {**_ANSWER, **_THOUGHT}, _USER],
    "an earlier call": [_USER, {**_ASKS, "content": ""}, _RESULT],
    "an earlier call ": [_USER, _ASKS, _RESULT],
    "earlier reasoning before a call": [_USER, {**_ASKS, **_THOUGHT, "content": ""}, _RESULT],
    "earlier reasoning before a call ": [_USER, {**_ASKS, **_THOUGHT}, _RESULT],
    "a system message": [{"role": "system", "content": "Be brief."}, _USER],
}


class Extension(NamedTuple):
    """The next prompt, or why there is none.

    Attributes:
        tokens: prompt, completion, the turn's end, the new messages and the generation prompt; None when the
            conversation must be rendered in full.
        reason: why; empty when there are tokens.
    """

    tokens: list[int] | None
    reason: str = ""


class _CannotExtendError(Exception):
    """Carries the reason inside this module."""


def extend(
    renderer: Renderer,
    prompt_tokens: Sequence[int],
    completion_tokens: Sequence[int],
    new_messages: Messages,
    tools: Sequence[ToolSpec] | None = None,
    *,
    messages: Messages | None = None,
) -> Extension:
    """The next prompt, starting with exactly `prompt_tokens` and `completion_tokens`.

    Args:
        renderer: of the model that sampled.
        prompt_tokens: the prompt that was sampled from.
        completion_tokens: what was sampled, with or without its stop token; a missing one is appended.
        new_messages: what comes after the turn: results of tools, or the user.
        tools: declarations, the same as in the prompt.
        messages: the conversation that the prompt was rendered from, when the caller has it: the answer is then
            about this history, not about any that the prompt might have been rendered from.

    Raises:
        InputError: the new messages are faulty.
    """
    check_messages(new_messages)
    prompt, completion = [int(t) for t in prompt_tokens], [int(t) for t in completion_tokens]
    try:
        following = _Following(renderer, prompt, completion, list(new_messages), tools)
        return Extension([*prompt, *completion, *following.find(messages)])
    except _CannotExtendError as error:
        return Extension(None, str(error))


class _Following:
    """What follows one sampled turn."""

    def __init__(
        self,
        renderer: Renderer,
        prompt: list[int],
        completion: list[int],
        new: list[Any],
        tools: Sequence[ToolSpec] | None,
    ) -> None:
        self._renderer = renderer
        self._tokenizer = renderer.tokenizer
        self._prompt, self._completion = prompt, completion
        self._new, self._tools = new, tools
        message, _ = renderer.parse_response(completion, prompt_tokens=prompt, tools=tools)
        self._turn: dict[str, Any] = {k: v for k, v in message.items() if k != "unparsed_tool_calls"}
        stops = renderer.get_stop_sequences()
        self._text_stops = tuple(stop for stop in stops if isinstance(stop, str))
        ends = {stop for stop in stops if isinstance(stop, int)}
        eos = self._tokenizer.control.get(self._tokenizer.eos_token or "")
        ends |= {eos.id} if eos else set()
        ends |= set(self._tokenizer.generation_stop_tokens)
        found = next((i for i, token in enumerate(completion) if token in ends), None)
        if found is not None and found < len(completion) - 1:
            raise _CannotExtendError("the completion goes on after its stop token")
        self._stop = None if found is None else completion[found]
        self._ends = ends

    def find(self, messages: Messages | None) -> list[int]:
        """The tokens after the completion."""
        if messages is not None:
            return self._after(list(messages), self._turn, exact=True)
        following = self._after([_USER], self._turn, exact=True)
        self._check_histories()
        return following

    # -- one conversation

    def _after(self, base: list[Any], turn: dict[str, Any], *, exact: bool = False) -> list[int]:
        """What follows `turn` after `base`, by rendering."""
        later = self._render_prompt([*base, turn, *self._new])
        if self._text_stops:
            return self._after_text(base, turn, later)
        whole = stretches(self._tokenizer, later)
        for said in self._spoken(base, turn, exact=exact):
            size = len(said)
            if whole.items[:size] == said and size < len(whole.items):
                return self._from_end(whole, size, later)
        raise _CannotExtendError("the template writes this turn differently once these messages follow it")

    def _from_end(self, whole: Stretches, size: int, later: list[int]) -> list[int]:
        """What follows the turn's first `size` items: the turn's end, unless it was sampled, and the rest."""
        end = whole.items[size]
        if isinstance(end, str):
            raise _CannotExtendError("the template goes on with text where the turn ends, so tokens could merge there")
        if self._stop is None:
            return later[whole.ends[size] - 1 :]
        if self._stop != end:
            stop, expected = (self._tokenizer.id_to_token(token) for token in (self._stop, end))
            raise _CannotExtendError(f"the turn ended with {stop}, where the template goes on with {expected}")
        return later[whole.ends[size] :]

    def _spoken(self, base: list[Any], turn: dict[str, Any], *, exact: bool) -> Iterator[list[int | str]]:
        """Prompt and turn without the stop token: as the template writes the turn, and as it was sampled."""
        refused = ""
        try:
            yield self._without_end(self._render_turn(base, turn))
        except _CannotExtendError as error:
            refused = str(error)
        if exact:
            sampled = self._completion if self._stop is None else self._completion[:-1]
            yield stretches(self._tokenizer, [*self._render_prompt(base), *sampled]).items
        if refused:
            raise _CannotExtendError(refused)

    def _without_end(self, tokens: list[int]) -> list[int | str]:
        return stretches(self._tokenizer, tokens[:-1] if tokens and tokens[-1] in self._ends else tokens).items

    def _after_text(self, base: list[Any], turn: dict[str, Any], later: list[int]) -> list[int]:
        """The same for a family whose turns end with text, as base models' do."""
        decode = self._tokenizer.decode
        text, said = decode(later), decode(self._render_turn(base, turn))
        stop = next((stop for stop in self._text_stops if said.endswith(stop)), None)
        if not text.startswith(said) or stop is None:
            raise _CannotExtendError("the template writes this turn differently once these messages follow it")
        sampled = decode(self._completion)
        following = text[len(said) :]
        if not any(known in sampled for known in self._text_stops):
            following = stop + following
        elif not sampled.endswith(stop) or sampled.count(stop) > 1:
            raise _CannotExtendError(f"the completion goes on after {stop!r}")
        return self._tokenizer.encode_text(following, continuation=True)

    def _render_prompt(self, messages: list[Any]) -> list[int]:
        try:
            return self._renderer.build_generation_prompt(messages, tools=self._tools).to_ints()
        except InputError as error:
            raise _CannotExtendError(f"the conversation cannot be rendered: {error}") from None

    def _render_turn(self, base: list[Any], turn: dict[str, Any]) -> list[int]:
        """Prompt and turn, its stop token included, as they would be trained."""
        messages = cast("list[Message]", [*base, turn])
        try:
            examples = self._renderer.render(messages, "last_assistant_message", self._tools, turns="split")
        except InputError as error:
            raise _CannotExtendError(f"the turn cannot be rendered: {error}") from None
        if not examples:
            raise _CannotExtendError("the template shows nothing of this turn")
        return examples[-1].tokens.tolist()

    # -- any history

    def _check_histories(self) -> None:
        """Raise when something that may stand in the prompt would be written differently, or change what follows."""
        turn = self._short_turn()
        plain_prompt = self._render_prompt([_USER])
        plain = self._outcome([_USER], turn, plain_prompt)
        harmless = transitions(self._tokenizer, plain_prompt)
        harmful: dict[str, set[Transition]] = {}
        for name, history in _HISTORIES.items():
            try:
                before = self._render_prompt(history)
            except _CannotExtendError:
                continue  # no prompt of this family has such a history
            shape = transitions(self._tokenizer, before)
            if self._outcome(history, turn, before) == plain:
                harmless |= shape
            else:
                harmful[name] = shape
        own = transitions(self._tokenizer, self._prompt) if harmful else set()
        for name, shape in harmful.items():
            signs = shape - harmless
            if not signs or signs & own:
                raise _CannotExtendError(
                    f"the template may write the history differently once these messages follow, as with {name.strip()}"
                    "; `messages` would tell"
                )

    def _outcome(self, base: list[Any], turn: dict[str, Any], before: list[int]) -> object:
        """What follows the turn, and whether all before it stays as it is."""
        try:
            later = self._render_prompt([*base, turn, *self._new])
            kept = starts_with(stretches(self._tokenizer, later).items, stretches(self._tokenizer, before).items)
            return kept, kept and tuple(later[self._turn_end(before, later) :])
        except _CannotExtendError as error:
            return str(error)

    def _turn_end(self, before: list[int], later: list[int]) -> int:
        """Where the turn that follows `before` ends: at the first end token there, else where `before` ends."""
        for i in range(min(len(before), len(later)), len(later)):
            if later[i] in self._ends:
                return i
        return min(len(before), len(later))

    def _short_turn(self) -> dict[str, Any]:
        """The turn with little text, which is all that other histories need to be compared by."""
        turn = dict(self._turn)
        if turn.get("content"):
            turn["content"] = "Yes."
        if turn.get("reasoning_content"):
            turn["reasoning_content"] = "Hm."
        return turn

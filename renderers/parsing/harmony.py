"""Harmony turns: messages with a channel and perhaps a recipient, one after another (gpt-oss).

The analysis channel is reasoning; the final channel, and commentary to nobody, is content; a message to somebody is a
tool call. Several messages of one kind are joined by a newline.
"""

from __future__ import annotations

from .draft import Draft
from .values import CallError, JsonEnd, read_object

__all__ = ["HarmonyTurn"]

_START, _CHANNEL, _MESSAGE, _CONSTRAIN, _END = "<|start|>", "<|channel|>", "<|message|>", "<|constrain|>", "<|end|>"
_FUNCTIONS = "functions."


class HarmonyTurn:
    """Reads one turn into a `Draft`; starts inside a header, as the generation prompt leaves it."""

    def __init__(self, draft: Draft) -> None:
        self._draft = draft
        self._state = "header"
        self._role: list[str] = []
        self._channel: list[str] | None = None
        self._kind = ""
        self._raw: list[str] = []
        self._name = ""
        self._index: int | None = None
        self._ending: JsonEnd | None = None
        self._separate = False
        self._began = False

    def text(self, text: str) -> None:
        if self._state == "header":
            self._began = True
            (self._role if self._channel is None else self._channel).append(text)
        elif self._state == "between":
            if text.strip():
                self._draft.broken(f"expected {_START} after {_END}; got {text.strip()[:40]!r}")
                self._draft.text(text)
        else:
            self._body(text)

    def mark(self, mark: str, *, special: bool) -> None:  # noqa: ARG002
        """A control token; one out of place breaks the turn and is kept as text."""
        if self._state == "between" and mark == _START:
            self._header()
        elif self._state == "header" and mark == _CHANNEL and self._channel is None:
            self._began = True
            self._channel = []
        elif self._state == "header" and mark == _CONSTRAIN:
            pass
        elif self._state == "header" and mark == _MESSAGE:
            self._open()
        elif self._state == "body" and mark == _END:
            self._close(complete=True)
            self._state = "between"
        else:
            self._draft.broken(f"unexpected {mark} in the {self._state} of a message")
            self.text(mark)

    def end(self, *, complete: bool) -> None:
        """The turn is over, by its stop token (`complete`) or because the tokens end."""
        if self._state == "body":
            self._close(complete=complete)
        elif self._state == "header" and (self._began or complete):
            self._draft.text("".join([*self._role, *(self._channel or [])]))
            if complete:
                self._draft.broken(f"expected {_MESSAGE} after a header; got the end of the turn")

    # -- one message

    def _header(self) -> None:
        self._state, self._role, self._channel = "header", [], None

    def _open(self) -> None:
        role, channel = "".join(self._role), "".join(self._channel or [])
        words = channel.split()
        name = words[0] if words and not words[0].startswith("to=") else ""
        recipient = next((word[3:] for word in [*role.split(), *words] if word.startswith("to=")), "")
        self._state, self._raw, self._index, self._ending = "body", [], None, None
        self._separate = False
        if recipient and recipient != "assistant":
            self._kind = "call"
            self._name = recipient.removeprefix(_FUNCTIONS)
            self._index = self._draft.start_call(self._name)
            return
        self._kind = "reasoning" if name == "analysis" else "content"
        # An analysis with nothing in it is there all the same, and the message says so.
        self._draft.keeps_empty_reasoning |= name == "analysis"
        self._separate = self._draft.has_reasoning if self._kind == "reasoning" else self._draft.has_content
        if name not in ("analysis", "commentary", "final"):
            self._draft.broken(f"expected the channel analysis, commentary or final; got {name!r}")

    def _body(self, text: str) -> None:
        if self._kind == "call":
            first = not self._raw
            self._raw.append(text)
            if first and text.startswith("{"):
                self._ending = JsonEnd()
            self._show(text)
            return
        say = self._draft.reasoning if self._kind == "reasoning" else self._draft.text
        if self._separate and text:
            self._separate = False
            text = "\n" + text
        say(text)

    def _show(self, text: str) -> None:
        if self._ending is not None and self._index is not None:
            end = self._ending.feed(text)
            self._draft.arguments(self._index, text if end is None else text[:end])
            if end is not None:
                self._ending = None

    def _close(self, *, complete: bool) -> None:
        if self._kind != "call":
            return
        raw = "".join(self._raw)
        if not complete:
            self._draft.fail_call(self._index, raw, "expected the end of the tool call; got the end of the turn")
            return
        try:
            arguments = read_object(raw, "arguments")
        except CallError as error:
            self._draft.fail_call(self._index, raw, str(error))
            return
        if not raw.startswith("{") and self._index is not None:
            self._draft.arguments(self._index, raw.strip())
        self._draft.end_call(self._index, self._name, arguments)

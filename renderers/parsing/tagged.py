"""Turns made of reasoning, content and tool calls between marks: every format but Harmony."""

from __future__ import annotations

from .call_json import read_call
from .draft import Draft
from .formats import WHITE_SPACE, CallReader, ResponseFormat
from .text import Trimmer
from .values import CallError, ParameterTypes

__all__ = ["TaggedTurn"]


class TaggedTurn:
    """Reads one turn into a `Draft`."""

    def __init__(self, form: ResponseFormat, draft: Draft, types: dict[str, ParameterTypes]) -> None:
        self._form = form
        self._draft = draft
        self._types = types
        self._content = self._content_trimmer(form.content_prefix, "")
        self._reasoning: Trimmer | None = None
        self._reader: CallReader | None = None
        self._thought = self._called = self._said = False
        self._between_marks = False
        self._bare: list[str] | None = [] if form.bare_calls else None

    def text(self, text: str) -> None:
        if self._reader is not None:
            self._reader.text(text)
        elif self._reasoning is not None:
            self._between_marks = True
            self._draft.reasoning(self._reasoning.feed(text))
        else:
            self._say(self._content.feed(text))

    def mark(self, mark: str, *, special: bool) -> None:
        """A control token or a mark in text; one out of place is text, and a special one breaks the turn."""
        form = self._form
        if self._reader is not None:
            assert form.calls is not None
            self._mark_in_calls(mark, self._reader)
        elif form.think and self._reasoning is not None and mark == form.think[1]:
            self._close_reasoning()
        elif form.think and self._may_think() and mark == form.think[0]:
            self._thought = True
            self._reasoning = Trimmer(form.think_prefix, form.think_strip, form.think_strip, (form.think_suffix,))
        elif form.calls and self._reasoning is None and mark == form.calls.opening:
            self._open_calls()
        else:
            if special:
                self._draft.broken(f"expected text or the end of the turn; got {mark}")
            self.text(mark)

    def end(self, *, complete: bool) -> None:
        """The turn is over, by its stop token (`complete`) or because the tokens end."""
        if self._reader is not None:
            assert self._form.calls is not None
            self._reader.close(complete=complete and not self._form.calls.closing, closed=False)
            self._reader = None
        elif self._reasoning is not None:
            self._draft.reasoning(self._reasoning.finish(self._form.think_suffix if complete else ""))
            self._reasoning = None
            if complete:
                self._draft.broken("expected the end of the reasoning; got the end of the turn")
        else:
            self._say(self._content.finish())
        self._end_bare(complete=complete)
        if self._thought and self._form.think:
            # Templates look for reasoning typed into the content unless the message says that there is none.
            self._draft.keeps_empty_reasoning = self._draft.says(self._form.think)

    # -- reasoning

    def _may_think(self) -> bool:
        return self._reasoning is None and not (self._thought or self._called or self._said)

    def _close_reasoning(self) -> None:
        assert self._reasoning is not None
        self._draft.reasoning(self._reasoning.finish(self._form.think_suffix))
        self._reasoning = None
        # Marks with nothing at all between them stand directly before the content.
        after = self._form.after_think if self._between_marks else ""
        self._content = self._content_trimmer(after, self._form.after_think_strip)

    def _content_trimmer(self, prefix: str, strip: str) -> Trimmer:
        form = self._form
        return Trimmer(prefix, strip + form.content_lstrip, form.content_rstrip, (form.before_calls,))

    # -- tool calls

    def _open_calls(self) -> None:
        calls = self._form.calls
        assert calls is not None
        self._say(self._content.finish(self._form.before_calls))
        self._bare_is_text()
        self._called = True
        self._reader = calls.reader(self._draft, self._types, calls.opening, calls.closing)

    def _mark_in_calls(self, mark: str, reader: CallReader) -> None:
        calls = self._form.calls
        assert calls is not None
        if mark == calls.closing:
            reader.close(complete=True)
            self._reader = None
            # Between calls there is white space; anything else goes on with the content.
            self._content = Trimmer("", WHITE_SPACE, WHITE_SPACE)
        elif mark == calls.opening and not calls.closing:
            reader.close(complete=True)
            self._reader = calls.reader(self._draft, self._types, calls.opening, calls.closing)
        elif mark in calls.inner:
            reader.mark(mark)
        else:
            reader.text(mark)

    # -- a turn that is one call and nothing else

    def _say(self, text: str) -> None:
        self._said = self._said or bool(text)
        if self._bare is None:
            self._draft.text(text)
        elif text:
            self._bare.append(text)
            if not self._bare[0].startswith("{"):
                self._bare_is_text()

    def _bare_is_text(self) -> None:
        if self._bare is not None:
            held, self._bare = "".join(self._bare), None
            self._draft.text(held)

    def _end_bare(self, *, complete: bool) -> None:
        if self._bare and complete:
            try:
                name, arguments, call_id = read_call("".join(self._bare))
            except CallError:
                pass  # an answer that looks like JSON is an answer
            else:
                self._bare = None
                self._draft.end_call(None, name, arguments, call_id)
        self._bare_is_text()

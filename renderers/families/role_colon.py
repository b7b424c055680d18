"""Base models without a chat template: `User: …`, a blank line, `Assistant: …`, a blank line.

The text is tinker-cookbook's. A turn ends with the string "\\n\\nUser:", whose last word is also the next user's
header: it is trained where an example ends with an assistant's turn; inside a conversation it is the next message's
header, and not trained.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ..errors import RefusedError
from ..family import Family, MessageText, Pieces, View
from ..messages import Message, ToolSpec
from ..parsing.formats import ROLE_COLON

__all__ = ["RENDERERS", "RoleColon"]

_USER = "User:"


class RoleColon(Family):
    """Role names and colons, for models that were never taught a chat format; no tools, no reasoning.

    A sampler may also end the turn with the model's own end-of-text token; parsing accepts both.
    """

    name: ClassVar[str] = "role_colon"  # type: ignore[misc]
    stop = "\n\n" + _USER
    ending = _USER
    response_format = ROLE_COLON
    opens_with_assistant = True

    @property
    def has_extension_property(self) -> bool:
        return True

    def control_tokens(self) -> Sequence[str]:
        return ()

    def get_stop_sequences(self) -> list[int] | list[str]:
        return [self.stop]

    def view(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None, count: int) -> View:
        if tools:
            raise RefusedError("tools", "template_refused", "expected none, as role_colon has no form for tools")
        return super().view(messages, tools, count)

    def opening(self, view: View) -> Pieces:  # noqa: ARG002
        bos = self.tokenizer.bos_token
        return (bos if bos and bos in self.tokenizer.control else "",)

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        if message.get("tool_calls"):
            raise RefusedError(
                f"messages[{index}].tool_calls", "template_refused", "expected none, as role_colon has no form for them"
            )
        content = message.get("content")
        if not isinstance(content, str):
            raise RefusedError(f"messages[{index}].content", "template_refused", "expected a string; got none")
        return MessageText((message["role"].capitalize() + ":",), (" ", content, "\n\n"))

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("Assistant:",)

    def turn(self, view: View, index: int) -> MessageText:
        text = self.message(view, index)
        if self.stop in text.body[1]:
            raise RefusedError(
                f"messages[{index}].content",
                "template_refused",
                f"expected an answer without {self.stop!r}, where sampling would stop; got {text.body[1][:60]!r}",
            )
        return text._replace(header=("",))


RENDERERS = (RoleColon,)

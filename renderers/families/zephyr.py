"""Zephyr: role tags in plain text, each message ended by the end-of-sequence token (Zephyr, TinyLlama chat, StableLM).

The tags are no control tokens, so a message may spell one; it cannot open a turn with it, as the end-of-sequence token
before it stays text.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import OptionError, RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Pieces, View, join_pieces
from ..parsing.formats import PLAIN
from ..tokenizer import Tokenizer

__all__ = ["RENDERERS", "Zephyr"]


class Zephyr(Family):
    """System, user and assistant as `<|role|>`, a line break, the content as it is, and the tokenizer's own end token.

    The template shows no other role, no tools and no reasoning.
    """

    name: ClassVar[str] = "zephyr"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"tinyllama": {}}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362": {},
    }
    response_format = PLAIN
    opens_with_assistant = True

    def __init__(self, tokenizer: Tokenizer, **options: Any) -> None:
        super().__init__(tokenizer, **options)
        if tokenizer.eos_token not in tokenizer.control:
            raise OptionError(
                f"renderer {self.name}: expected a tokenizer with an end-of-sequence token; got {tokenizer.eos_token!r}"
            )
        self._end = str(tokenizer.eos_token)

    @property
    def has_extension_property(self) -> bool:
        return True

    def control_tokens(self) -> Sequence[str]:
        """None by name: models differ in what their end token is called."""
        return ()

    def get_stop_sequences(self) -> list[int] | list[str]:
        return [self.tokenizer.control[self._end].id]

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        if role not in ("system", "user", "assistant"):
            return NOT_SHOWN
        content = message.get("content")
        if not isinstance(content, str):
            raise RefusedError(f"messages[{index}].content", "template_refused", "expected a string; got none")
        return MessageText((f"<|{role}|>\n",), ("", content, self._end), ("\n",))

    def generation_prompt(self, view: View) -> Pieces:
        # The template prompts inside its loop over the messages: before the first one there is nothing to prompt with.
        return ("<|assistant|>\n",) if view.count else ("",)

    def turn(self, view: View, index: int) -> MessageText:
        header, body, rest = self.message(view, index)
        # What the prompt does not give belongs to the turn.
        return MessageText(("",), body if index else join_pieces(header, body), rest)


RENDERERS = (Zephyr,)

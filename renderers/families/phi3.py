"""Phi-3.5: role tokens on their own line; text only.

The tokenizer swallows white space after each control token, so the line breaks of the template, and white space that
a content in a prompt starts with, are no tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..errors import RefusedError
from ..family import NOT_SHOWN, Family, MessageText, Option, Pieces, View
from ..parsing.formats import PLAIN

__all__ = ["RENDERERS", "Phi3"]

_END = "<|end|>"


class Phi3(Family):
    """Phi-3.5 and Phi-3 chat: system, user and assistant; the template shows no other role, no tools, no reasoning.

    Options:
        empty_system: True writes a system message without text too, as the template of Phi-3 does.
    """

    name: ClassVar[str] = "phi3"  # type: ignore[misc]
    aliases: ClassVar[Mapping[str, Mapping[str, Any]]] = {"phi3.5": {}}
    templates: ClassVar[Mapping[str, Mapping[str, Any]]] = {
        "78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90": {},
        "dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa": {"empty_system": True},
    }
    OPTIONS: ClassVar[Mapping[str, Option]] = {"empty_system": Option(bool, False, variable=None)}
    stop = _END
    response_format = PLAIN
    opens_with_assistant = True

    @property
    def has_extension_property(self) -> bool:
        return True

    def control_tokens(self) -> Sequence[str]:
        return ("<|system|>", "<|user|>", "<|assistant|>", _END)

    def get_stop_sequences(self) -> list[int] | list[str]:
        """The end of a turn, then the end of a conversation."""
        control, eos = self.tokenizer.control, self.tokenizer.eos_token
        return [control[text].id for text in (_END, eos) if text in control]

    def message(self, view: View, index: int) -> MessageText:
        message = view.messages[index]
        role = message["role"]
        content = message.get("content")
        if role not in ("system", "user", "assistant"):
            return NOT_SHOWN
        if role == "system" and not content and not self.options["empty_system"]:
            return NOT_SHOWN
        if not isinstance(content, str):
            raise RefusedError(f"messages[{index}].content", "template_refused", "expected a string; got none")
        return MessageText((f"<|{role}|>\n",), ("", content, _END), ("\n",))

    def closing(self, view: View) -> Pieces:  # noqa: ARG002
        return (self.tokenizer.eos_token or "",)

    def generation_prompt(self, view: View) -> Pieces:  # noqa: ARG002
        return ("<|assistant|>\n",)

    def turn(self, view: View, index: int) -> MessageText:
        return self.message(view, index)._replace(header=("",))


RENDERERS = (Phi3,)

"""How each family's turns are written, as data. A family names one of these as its `response_format`.

Marks that are control tokens of the tokenizer are recognised by id, so text that merely spells them stays text. Marks
that the vocabulary does not have are ordinary text in every respect, and are found as text. Text inside a tool call
(`<function=…>`, JSON) is text by nature.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from .call_json import JsonCall, JsonCallList
from .call_sections import DeepSeekCalls, KimiCalls
from .call_tags import GlmCall, XmlCall
from .draft import Draft
from .values import ParameterTypes

__all__ = [
    "CHATML",
    "DEEPSEEK_V3",
    "GLM",
    "HARMONY",
    "KIMI_K2",
    "LLAMA3",
    "MISTRAL",
    "NEMOTRON3",
    "PLAIN",
    "QWEN3",
    "QWEN3_5",
    "ROLE_COLON",
    "TRIMMED",
    "CallReader",
    "CallSyntax",
    "ResponseFormat",
]

WHITE_SPACE = " \t\n\r\x0b\x0c\x1c\x1d\x1e\x1f\x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000" + "".join(
    map(chr, range(0x2000, 0x200B))
)
"""What `str.strip()`, and so a template's `trim`, takes off."""


class CallReader(Protocol):
    """Reads the text and inner marks of one region of tool calls into a `Draft`."""

    def text(self, text: str) -> None: ...

    def mark(self, mark: str) -> None: ...

    def close(self, *, complete: bool, closed: bool = True) -> None:
        """The region is over: `complete` when it may be, `closed` when its closing mark was there."""


@dataclass(frozen=True)
class CallSyntax:
    """How tool calls stand in a turn.

    Attributes:
        reader: reads one region.
        opening, closing: marks around a region; without a closing one it goes on to the next opening or the end.
        inner: control tokens inside a region.
    """

    reader: Callable[[Draft, dict[str, ParameterTypes], str, str], CallReader]
    opening: str
    closing: str = ""
    inner: tuple[str, ...] = ()

    @property
    def marks(self) -> tuple[str, ...]:
        return tuple(mark for mark in (self.opening, self.closing, *self.inner) if mark)


@dataclass(frozen=True)
class ResponseFormat:
    """How an assistant's turn is written after its generation prompt: the inverse of the template's white space.

    Attributes:
        name: for people.
        think: marks around reasoning, or None.
        think_prefix, think_suffix: text that the template writes inside those marks.
        think_strip: characters it strips from the reasoning.
        after_think: text it writes between the closing mark and the content, unless nothing stands between the marks.
        content_prefix: text it writes before the content of a turn without reasoning.
        after_think_strip: characters it strips there from the content.
        content_rstrip: characters it strips from the right end of the content.
        content_lstrip: characters it strips from the left end of the content.
        before_calls: text it writes between content and the first call.
        calls: how tool calls are written, or None.
        bare_calls: a turn that is nothing but `{"name": …, "parameters": {…}}` is a call.
        null_content: the template tells a turn of calls alone by its missing content.
        harmony: the turn is a sequence of messages with channels; nothing else here applies.
    """

    name: str
    think: tuple[str, str] | None = None
    think_prefix: str = ""
    think_suffix: str = ""
    think_strip: str = ""
    after_think: str = ""
    after_think_strip: str = ""
    content_prefix: str = ""
    content_lstrip: str = ""
    content_rstrip: str = ""
    before_calls: str = ""
    calls: CallSyntax | None = None
    bare_calls: bool = False
    null_content: bool = False
    harmony: bool = False

    @property
    def marks(self) -> tuple[str, ...]:
        """Every mark that this format looks for."""
        return (*(self.think or ()), *(self.calls.marks if self.calls else ()))


_TAGS = ("<think>", "</think>")
JSON_CALLS = CallSyntax(JsonCall, "<tool_call>", "</tool_call>")
XML_CALLS = CallSyntax(XmlCall, "<tool_call>", "</tool_call>")
GLM_CALLS = CallSyntax(
    GlmCall, "<tool_call>", "</tool_call>", ("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>")
)
KIMI_CALLS = CallSyntax(
    KimiCalls,
    "<|tool_calls_section_begin|>",
    "<|tool_calls_section_end|>",
    (KimiCalls.begin, KimiCalls.divide, KimiCalls.end),
)
DEEPSEEK_CALLS = CallSyntax(
    DeepSeekCalls,
    "<｜tool▁calls▁begin｜>",
    "<｜tool▁calls▁end｜>",
    (DeepSeekCalls.begin, DeepSeekCalls.divide, DeepSeekCalls.end),
)
MISTRAL_CALLS = CallSyntax(JsonCallList, "[TOOL_CALLS]")
PYTHON_TAG_CALLS = CallSyntax(JsonCall, "<|python_tag|>")

PLAIN = ResponseFormat("plain text")
TRIMMED = ResponseFormat("plain text, trimmed", content_lstrip=WHITE_SPACE, content_rstrip=WHITE_SPACE)
CHATML = ResponseFormat("JSON in <tool_call>", before_calls="\n", calls=JSON_CALLS)
QWEN3 = ResponseFormat(
    "<think>, JSON in <tool_call>",
    think=_TAGS,
    think_prefix="\n",
    think_suffix="\n",
    think_strip="\n",
    after_think="\n\n",
    after_think_strip="\n",
    before_calls="\n",
    calls=JSON_CALLS,
)
QWEN3_5 = ResponseFormat(
    "<think>, XML in <tool_call>",
    think=_TAGS,
    think_strip=WHITE_SPACE,
    content_lstrip=WHITE_SPACE,
    content_rstrip=WHITE_SPACE,
    calls=XML_CALLS,
)
NEMOTRON3 = ResponseFormat(
    "<think>, XML in <tool_call>",
    think=_TAGS,
    think_prefix="\n",
    think_suffix="\n",
    after_think="\n",
    before_calls="\n",
    content_rstrip=WHITE_SPACE,
    calls=XML_CALLS,
)
GLM = ResponseFormat(
    "<think>, keys and values in <tool_call>",
    think=_TAGS,
    think_strip=WHITE_SPACE,
    content_lstrip=WHITE_SPACE,
    content_rstrip=WHITE_SPACE,
    calls=GLM_CALLS,
)
KIMI_K2 = ResponseFormat("Kimi tool calls", calls=KIMI_CALLS)
DEEPSEEK_V3 = ResponseFormat("DeepSeek tool calls", calls=DEEPSEEK_CALLS, null_content=True)
MISTRAL = ResponseFormat("list in [TOOL_CALLS]", calls=MISTRAL_CALLS)
LLAMA3 = ResponseFormat(
    "JSON alone or after <|python_tag|>",
    content_lstrip=WHITE_SPACE,
    content_rstrip=WHITE_SPACE,
    calls=PYTHON_TAG_CALLS,
    bare_calls=True,
)
ROLE_COLON = ResponseFormat("plain text after a space", content_prefix=" ")
HARMONY = ResponseFormat("Harmony channels", harmony=True)

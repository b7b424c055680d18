"""How a chat template writes a turn, found out by rendering one: the format of models without a family file."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from ..tokenizer import Tokenizer
from .formats import (
    DEEPSEEK_CALLS,
    GLM_CALLS,
    HARMONY,
    JSON_CALLS,
    KIMI_CALLS,
    MISTRAL_CALLS,
    PYTHON_TAG_CALLS,
    WHITE_SPACE,
    XML_CALLS,
    CallSyntax,
    ResponseFormat,
)

__all__ = ["probe_format"]

Render = Callable[[Sequence[Any]], str | None]
"""Messages to text, None where the template refuses them."""

_USER = {"role": "user", "content": "Hello"}
_CONTENT, _THOUGHT, _NAME = "zqxcontent", "zqxthought", "zqxname"
_TAG = re.compile(r"<[^<>\s/]+>")
# What gives a syntax away, the more particular first.
_SYNTAXES: tuple[tuple[str, CallSyntax], ...] = (
    ("<function=", XML_CALLS),
    ("<arg_key>", GLM_CALLS),
    (KIMI_CALLS.opening, KIMI_CALLS),
    (DEEPSEEK_CALLS.opening, DEEPSEEK_CALLS),
    (MISTRAL_CALLS.opening, MISTRAL_CALLS),
    (PYTHON_TAG_CALLS.opening, PYTHON_TAG_CALLS),
    (JSON_CALLS.opening, JSON_CALLS),
)


def probe_format(tokenizer: Tokenizer, render: Render) -> ResponseFormat:
    """The format of turns that this template writes; its name says what was found.

    Reasoning and calls that the template does not write itself are still looked for when the vocabulary has their
    control tokens (`<think>`, `<tool_call>`): a model may be trained on them although its template is silent.
    """
    called = _called(render)
    if called is not None and "<|channel|>" in called and "<|message|>" in called:
        return HARMONY
    form = _with_calls(_with_think(_with_content(ResponseFormat(""), render), tokenizer, render), tokenizer, called)
    parts: list[str] = []
    if form.think:
        parts.append(f"reasoning in {form.think[0]}{_how(tokenizer, form.think[0])}")
    if form.calls:
        parts.append(f"tool calls after {form.calls.opening}{_how(tokenizer, form.calls.opening)}")
    if form.bare_calls:
        parts.append("a tool call as JSON alone")
    parts.append("trimmed content" if form.content_rstrip else "content as it is")
    return replace(form, name=", ".join(parts))


def _how(tokenizer: Tokenizer, mark: str) -> str:
    return " (by token)" if mark in tokenizer.control else " (as text)"


def _with_content(form: ResponseFormat, render: Render) -> ResponseFormat:
    plain, left, right = (
        render([_USER, {"role": "assistant", "content": text}])
        for text in (_CONTENT, f"\n {_CONTENT}", f"{_CONTENT} \n")
    )
    if plain is None:
        return form
    return replace(
        form,
        content_lstrip=WHITE_SPACE if left == plain else "",
        content_rstrip=WHITE_SPACE if right == plain else "",
    )


def _with_think(form: ResponseFormat, tokenizer: Tokenizer, render: Render) -> ResponseFormat:
    text = render([_USER, _thinking(_THOUGHT, _CONTENT)])
    if text is None or not 0 <= text.find(_THOUGHT) < text.find(_CONTENT):
        if all(tag in tokenizer.control for tag in ("<think>", "</think>")):
            return replace(form, think=("<think>", "</think>"), think_strip="\n", after_think_strip="\n")
        return form
    before, between = text[: text.index(_THOUGHT)], text[text.index(_THOUGHT) + len(_THOUGHT) : text.index(_CONTENT)]
    tags = list(_TAG.finditer(before))
    if not tags:
        return form
    opening = tags[-1].group()
    closing = f"</{opening[1:]}"
    if closing not in between or not before.endswith(opening + before[tags[-1].end() :]):
        return form
    suffix, _, after = between.partition(closing)
    newlines = render([_USER, _thinking(f"\n{_THOUGHT}\n", f"\n{_CONTENT}")])
    blanks = render([_USER, _thinking(f" {_THOUGHT} ", _CONTENT)])
    left = render([_USER, _thinking(_THOUGHT, f"\n{_CONTENT}")])
    strip = WHITE_SPACE if blanks == text else "\n" if newlines in (text, left) else ""
    return replace(
        form,
        think=(opening, closing),
        think_prefix=before[tags[-1].end() :],
        think_suffix=suffix,
        think_strip=strip,
        after_think=after,
        after_think_strip="\n" if left == text and not form.content_lstrip else "",
    )


def _thinking(thought: str, content: str) -> dict[str, Any]:
    # Under every name that templates read reasoning by.
    return {
        "role": "assistant",
        "content": content,
        "reasoning_content": thought,
        "thinking": thought,
        "reasoning": thought,
    }


def _called(render: Render) -> str | None:
    """A turn with content and a call, or without content where the template wants it so."""
    function = {"name": _NAME, "arguments": {"key": "value"}}
    for arguments in ({"key": "value"}, '{"key": "value"}'):
        call: Mapping[str, Any] = {
            "type": "function",
            "id": "abcde1234",
            "function": {**function, "arguments": arguments},
        }
        for extra in ({"content": _CONTENT}, {"content": ""}, {}):
            text = render([_USER, {"role": "assistant", "tool_calls": [call], **extra}])
            if text is not None and _NAME in text:
                return text
    return None


def _with_calls(form: ResponseFormat, tokenizer: Tokenizer, called: str | None) -> ResponseFormat:
    if called is None:
        return _by_vocabulary(form, tokenizer)
    head = called[: called.index(_NAME) + len(_NAME) + 1]
    for sign, syntax in _SYNTAXES:
        where = called if sign == "<arg_key>" else head
        if sign in where:
            start = called.rindex(syntax.opening, 0, called.index(_NAME))
            content = called.rfind(_CONTENT, 0, start)
            between = called[content + len(_CONTENT) : start] if content >= 0 else "\n"
            return replace(form, calls=syntax, before_calls=between if not between.strip() else "")
    if re.search(r'\{"name": "' + _NAME, called):
        return replace(form, bare_calls=True)
    return form


def _by_vocabulary(form: ResponseFormat, tokenizer: Tokenizer) -> ResponseFormat:
    """Calls of a syntax whose marks are all control tokens here, for a template that shows none."""
    for syntax in (KIMI_CALLS, DEEPSEEK_CALLS, GLM_CALLS, JSON_CALLS, MISTRAL_CALLS):
        if all(mark in tokenizer.control for mark in syntax.marks):
            before = "\n" if syntax is JSON_CALLS else ""
            return replace(form, calls=syntax, before_calls=before, null_content=syntax is DEEPSEEK_CALLS)
    return form

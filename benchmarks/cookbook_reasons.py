"""Why tinker-cookbook's tokens differ from a chat template's: found out from the first place where they part."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["REASONS", "VERDICTS", "Difference", "reason_of"]

VERDICTS = {
    "equal": "the same tokens and weights",
    "both refuse": "neither renders it",
    "theirs raises": "the cookbook raises or asserts; ours renders it",
    "ours refuses": "ours refuses it, as the template does or as nothing of a trained message is shown",
    "differs": "the cookbook's tokens are not the template's",
    "differs though agreed": "the cookbook's tokens are the template's, the trained tokens are not the same",
}
REASONS = {
    "splits": "ours gives several examples: the template writes an earlier trained turn otherwise once more follows.",
    "template_refused": "ours refuses, because the template raises.",
    "prompt_disagrees": "ours refuses the turn: the template writes it, or what is before it, unlike its own prompt.",
    "span_not_found": "ours refuses to train on a message of which the template shows nothing.",
    "control_token": "ours refuses a control token in content that this tokenizer cannot keep as text.",
    "produced turn": "`last_assistant_turn` of a conversation that does not end with the assistant: ours "
    "writes the turn as it is when it is produced, the cookbook as history.",
    "block is no message": "the cookbook trains its own block of tools or settings as a system message; here it "
    "is template text of no message.",
    "other ids": "the same text, other tokens: the cookbook encodes headers and contents apart, the "
    "template's text is encoded as a whole.",
    "typed control tokens": "control tokens typed in content become live control tokens in the cookbook; here "
    "they stay text unless `control_tokens` says otherwise.",
    "escapes": "non-ASCII text in JSON is escaped (`\\u4e09`); the template writes it as it is.",
    "date block": "the cookbook leaves out the template's date block.",
    "trim": "the template trims contents, the cookbook does not, or the other way round.",
    "deepseek v3.1": "the cookbook's format is DeepSeek-V3.1's (`</think>` after each header, calls "
    "without code fences); this is V3's template.",
    "kimi thinking": "the cookbook's format is Kimi-K2-Thinking's (`<think></think>` in each answer, "
    "another default system text, own ids of calls, sorted declarations); this is "
    "K2-Instruct's template.",
    "thought in history": "reasoning typed into an earlier answer (`<think>…</think>`) stays; the template "
    "takes it out.",
    "thought in tool loops": "the template shows reasoning of every turn after the last user message; the cookbook"
    " of the last turn only.",
    "thought kept": "the cookbook shows reasoning where the template shows none.",
    "thought between texts": "a thinking part after a text part: the cookbook keeps the order, the template knows "
    "one reasoning before the content.",
    "empty thought": "the template writes an empty think block where the cookbook writes none, or the other way round.",
    "results apart": "consecutive tool results stand in one block in the template, each in its own in the cookbook.",
    "tool declarations": "the cookbook declares tools in other words or in another place than the template.",
    "call format": "the cookbook writes tool calls or results in another form than the template.",
    "analysis in history": "the cookbook keeps the analysis channel of earlier turns; the template drops it.",
    "return in history": "an answer that others follow ends with `<|return|>` in the cookbook's prompt; the "
    "template ends it with `<|end|>`.",
    "odd roles": "the cookbook writes system or developer messages in odd places, or unknown roles, as"
    " turns; the template puts them elsewhere, passes over them or names them otherwise.",
    "empty instructions": "an empty system message: the cookbook writes it, the template leaves it out.",
    "unused": "the cookbook ends an example whose last message is not the assistant's with its placeholder `<UNUSED>`.",
    "unknown": "not explained.",
}


@dataclass(frozen=True)
class Difference:
    """Both texts of one conversation."""

    theirs: str
    ours: str
    what: str
    messages: Sequence[Any]
    tools: Any
    template_text: str
    cookbook_text: str
    renderer: Any

    @property
    def at(self) -> int:
        """Where the texts part."""
        pairs = zip(self.template_text, self.cookbook_text, strict=False)
        shorter = min(len(self.template_text), len(self.cookbook_text))
        return next((i for i, (left, right) in enumerate(pairs) if left != right), shorter)

    @property
    def shown(self) -> str:
        begin = max(0, self.at - 60)
        return (
            f"\n    template {self.template_text[begin : self.at + 60]!r}"
            f"\n    cookbook {self.cookbook_text[begin : self.at + 60]!r}"
        )


def reason_of(found: Difference) -> str:
    """A key of `REASONS`, from the first difference; `unknown` where none fits."""
    template, cookbook = found.template_text[found.at :], found.cookbook_text[found.at :]
    if found.theirs.startswith("kimi"):
        return "kimi thinking"
    if found.theirs.startswith("deepseek"):
        return "deepseek v3.1"
    if found.ours == "llama3":
        return "date block"
    if not cookbook and not template.strip():  # the template may go on after the last stop token
        return "typed control tokens" if _typed(found) else "other ids"
    if cookbook.startswith("<UNUSED>"):
        return "unused"
    if re.search(r"\\u[0-9a-f]{4}", found.cookbook_text[max(0, found.at - 5) : found.at + 8]):
        return "escapes"
    special = {"gpt_oss": _gpt_oss, "qwen3": _qwen, "nemotron3": _qwen}
    for name, rule in special.items():
        if found.theirs.startswith(name):
            reason = rule(found, template, cookbook)
            if reason:
                return reason
    if template[:1].isspace() or cookbook[:1].isspace() or cookbook[:1] in "\x1c\x1d\x1e\x1f":
        return "trim"
    return "unknown"


def _gpt_oss(found: Difference, template: str, cookbook: str) -> str:
    before = found.template_text[: found.at]
    if found.tools:
        return "tool declarations"
    if cookbook.startswith(("constrain|>", "<|constrain|>")) or " to=functions." in template[:40]:
        return "call format"
    if cookbook.startswith(("return|>", "<|return|>")):
        return "return in history"
    if "analysis<|message|>" in cookbook[:40]:
        return "analysis in history"
    if "# Instructions\n\n\n\n" in cookbook[:60]:
        return "empty instructions"
    if "developer<|message|>" in cookbook[:40] or "system" in {m["role"] for m in found.messages[1:]}:
        return "odd roles"
    if before.endswith("commentary<|message|>") or "to=assistant" in before[-60:]:
        return "call format"
    return ""


def _qwen(found: Difference, template: str, cookbook: str) -> str:
    loops = any(message["role"] == "tool" for message in found.messages)
    if found.tools and (
        "<tools>" in found.template_text[: found.at] and "</tools>" not in found.template_text[: found.at]
    ):
        return "tool declarations"
    if re.match(r"(<\|im_start\|>)?(developer|system|tool)", cookbook):
        return "odd roles"
    if cookbook.startswith("<|im_start|>user\n<tool_response>") or "tool_response>" in template[:20]:
        return "results apart"
    if any(_thinks_late(message) for message in found.messages):
        return "thought between texts"
    near = slice(max(0, found.at - 7), found.at + 9)
    if "think>" in found.template_text[near] and "think>" not in found.cookbook_text[found.at : found.at + 9]:
        return "thought in tool loops" if loops else "empty thought"
    if "think>" in found.cookbook_text[max(0, found.at - 7) : found.at + 9]:
        inline = any("think>" in str(message.get("content", "")) for message in found.messages)
        if inline:
            return "thought in history"
        return "empty thought" if re.match(r"<think>\s*</think>", cookbook) else "thought kept"
    tags = [text.count("think>") for text in (found.template_text, found.cookbook_text)]
    if any("think>" in str(message.get("content", "")) for message in found.messages) and tags[0] < tags[1]:
        return "thought in history"
    return ""


def _typed(found: Difference) -> bool:
    """Whether content has a control token's text, and the cookbook makes that live."""
    if found.theirs.startswith("qwen3") and not found.theirs.startswith("qwen3_5"):
        return False  # these renderers keep it as text
    typed = found.renderer.tokenizer.control_pattern.search(json.dumps(found.messages, ensure_ascii=False))
    return typed is not None


def _thinks_late(message: Any) -> bool:
    """Whether a thinking part comes after a text part."""
    content = message.get("content")
    if not isinstance(content, list):
        return False
    kinds = [part["type"] for part in content]
    return "thinking" in kinds and kinds[0] != "thinking"

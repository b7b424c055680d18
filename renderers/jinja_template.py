"""A chat template, run as transformers runs it: sandboxed Jinja, `tojson`, `strftime_now`, `{% generation %}` marks.

Two compiled forms of the same source: a plain one for speed, and one over `Traced` strings that tells for every
character of the result which message it came from.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property, lru_cache
from typing import Any

import jinja2
import jinja2.ext
import jinja2.meta
import jinja2.nodes
import jinja2.utils
from jinja2.compiler import CodeGenerator
from jinja2.sandbox import ImmutableSandboxedEnvironment

from .errors import RefusedError, UserError
from .messages import ROLES, Message, ToolSpec
from .traced import TEMPLATE, concat, origin_of, trace, traced_json

__all__ = ["ChatTemplateSource", "Prefixes", "TracedText", "visible_messages"]

# Noncharacters around the body of a generation block; cut out of the result again.
_OPEN, _CLOSE = "\ufdd2", "\ufdd3"
_REASONING_FIELDS = ("reasoning_content", "thinking", "reasoning")
_DICT_ATTRIBUTES = frozenset(dir(dict))
_NOT_FOR_TEMPLATES = frozenset(("weight", "trainable"))


@dataclass(frozen=True, slots=True)
class TracedText:
    """Rendered text and where it came from.

    Attributes:
        text: as a plain render gives it.
        origin: one character per character of `text`: `TEMPLATE`, or `chr(message index + 1)`.
        generation: character spans of the template's `{% generation %}` blocks.
    """

    text: str
    origin: str
    generation: list[tuple[int, int]]


class _Generation(jinja2.ext.Extension):
    """`{% generation %} … {% endgeneration %}`: the body between two marks when marks are wanted."""

    tags = {"generation"}  # noqa: RUF012  (Jinja's own shape)

    def parse(self, parser: Any) -> Any:
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_mark"), [], [], body).set_lineno(line)

    def _mark(self, caller: Callable[[], str]) -> str:
        body = caller()
        if not isinstance(self.environment, _TracedEnvironment):
            return body
        return concat([_OPEN, body, _CLOSE])


def _raise_exception(message: str) -> None:
    raise jinja2.TemplateError(message)


def _strftime_now(pattern: str) -> str:
    return datetime.now().strftime(pattern)  # noqa: DTZ005  (local time, as transformers gives templates)


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def _traced_tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    return traced_json(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class _Namespace(jinja2.utils.Namespace):
    """Jinja's namespace without underscore names, which would reach Python's internals."""

    def __init__(*args: Any, **kwargs: Any) -> None:
        self, *rest = args
        values = dict(*rest, **kwargs)
        for name in values:
            _Namespace._check(name)
        jinja2.utils.Namespace.__init__(self, values)

    def __setitem__(self, name: str, value: Any) -> None:
        _Namespace._check(name)
        jinja2.utils.Namespace.__setitem__(self, name, value)

    @staticmethod
    def _check(name: Any) -> None:
        if isinstance(name, str) and name.startswith("_"):
            raise jinja2.exceptions.SecurityError(f"chat templates cannot store {name!r} on a namespace")


class _DictFactory:
    """`dict(...)` without the class itself, whose attributes would leave the sandbox."""

    def __call__(self, *args: Any, **kwargs: Any) -> dict[Any, Any]:
        return dict(*args, **kwargs)

    def fromkeys(self, *args: Any) -> dict[Any, Any]:
        return dict.fromkeys(*args)


class _Environment(ImmutableSandboxedEnvironment):
    def __init__(self) -> None:
        super().__init__(trim_blocks=True, lstrip_blocks=True, extensions=[_Generation, "jinja2.ext.loopcontrols"])
        self.filters["tojson"] = _tojson
        names: dict[str, Any] = self.globals
        names["raise_exception"] = _raise_exception
        names["strftime_now"] = _strftime_now
        names["dict"] = _DictFactory()
        names["namespace"] = _Namespace

    def getattr(self, obj: Any, attribute: str) -> Any:
        # Messages are plain dicts, and `message.role` is by far the most frequent thing a template does. For a dict
        # the sandbox's own way (an attribute first, then a key) comes to this, without an exception on each access.
        if type(obj) is dict and attribute not in _DICT_ATTRIBUTES:
            if attribute in obj:
                return obj[attribute]
            return self.undefined(obj=obj, name=attribute)
        return super().getattr(obj, attribute)


class _TracedCode(CodeGenerator):
    def visit_Concat(self, node: Any, frame: Any) -> None:  # noqa: N802  (Jinja's visitor name)
        self.write("environment.concat(map(str, (")
        for part in node.nodes:
            self.visit(part, frame)
            self.write(", ")
        self.write(")))")


class _TracedEnvironment(_Environment):
    """The same, over `Traced` strings."""

    code_generator_class = _TracedCode
    concat = staticmethod(concat)

    def __init__(self) -> None:
        super().__init__()
        self.filters["tojson"] = _traced_tojson
        self.filters["join"] = _traced_join
        for name in ("indent", "wordwrap", "format", "center", "title", "capitalize", "replace", "upper", "lower"):
            self.filters[name] = _all_message_text(self.filters[name])


def _traced_join(values: Any, d: str = "", attribute: str | None = None) -> str:
    if attribute is not None:
        values = [value.get(attribute) if isinstance(value, Mapping) else getattr(value, attribute) for value in values]
    return concat([part for i, value in enumerate(values) for part in ((d, str(value)) if i else (str(value),))])


def _all_message_text(function: Callable[..., Any]) -> Callable[..., Any]:
    """A filter that rebuilds strings: what it makes of message text is message text, all of it."""

    def filtered(*args: Any, **kwargs: Any) -> Any:
        origins = {o for arg in args if isinstance(arg, str) for o in origin_of(arg)} - {TEMPLATE}
        result = function(*args, **kwargs)
        if not origins or not isinstance(result, str) or origin_of(result).strip(TEMPLATE):
            return result
        return trace(str(result), min(origins))

    for mark in ("jinja_pass_arg",):
        if hasattr(function, mark):
            setattr(filtered, mark, getattr(function, mark))
    return filtered


@lru_cache(maxsize=1)
def _plain_environment() -> _Environment:
    return _Environment()


@lru_cache(maxsize=1)
def _traced_environment() -> _TracedEnvironment:
    return _TracedEnvironment()


class ChatTemplateSource:
    """One Jinja chat template.

    Args:
        source: the template text.
        variables: what the template sees besides the messages: special tokens, options.

    Raises:
        UserError: the source is not valid Jinja.
    """

    def __init__(self, source: str, variables: Mapping[str, Any] | None = None) -> None:
        self.source = source
        self.variables = dict(variables or {})
        try:
            self._plain = _plain_environment().from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise UserError(f"chat template, line {error.lineno}: {error.message}") from None

    @cached_property
    def _traced(self) -> jinja2.Template:
        return _traced_environment().from_string(self.source)

    @cached_property
    def _globals(self) -> dict[str, Any]:
        return {**_plain_environment().globals, **self.variables}

    @cached_property
    def hash(self) -> str:
        """sha256 of the template text."""
        return hashlib.sha256(self.source.encode()).hexdigest()

    @cached_property
    def undeclared(self) -> frozenset[str]:
        """Names that the template reads and does not set: messages, tools, and its options."""
        environment = _plain_environment()
        return frozenset(jinja2.meta.find_undeclared_variables(environment.parse(self.source)))

    @cached_property
    def has_generation_marks(self) -> bool:
        return "endgeneration" in self.source

    def render(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> str:
        """The text of the messages.

        Raises:
            RefusedError: the template raised; its own words are in the detail.
        """
        return self._run(self._plain, visible_messages(messages), tools, add_generation_prompt)

    def prefixes(self, messages: Sequence[Message], tools: Sequence[ToolSpec] | None = None) -> Prefixes:
        """For rendering many prefixes of one conversation: `render(count, add_generation_prompt=…)`."""
        return Prefixes(self, visible_messages(messages), tools)

    def render_visible(
        self, visible: list[dict[str, Any]], tools: Sequence[ToolSpec] | None, *, add_generation_prompt: bool
    ) -> str:
        """`render` for messages that `visible_messages` has made."""
        return self._run(self._plain, visible, tools, add_generation_prompt)

    def render_traced(
        self,
        messages: Sequence[Message],
        tools: Sequence[ToolSpec] | None = None,
        *,
        add_generation_prompt: bool = False,
    ) -> TracedText:
        """The same text with the origin of each character; strings inside `tools` count as message 0's."""
        visible = [_trace_message(message, chr(i + 1)) for i, message in enumerate(visible_messages(messages))]
        traced_tools = None if tools is None else trace(list(tools), "\1")
        return _without_marks(self._run(self._traced, visible, traced_tools, add_generation_prompt))

    def _run(
        self, template: jinja2.Template, messages: list[Any], tools: Sequence[ToolSpec] | None, generation: bool
    ) -> str:
        environment = template.environment
        # What `Template.render` does, with the names every render shares merged once and not for each.
        names = {
            **self._globals,
            "messages": messages,
            "tools": tools,
            "documents": None,
            "add_generation_prompt": generation,
        }
        context = environment.context_class(environment, names, template.name, template.blocks)
        try:
            return environment.concat(template.root_render_func(context))
        except (jinja2.TemplateError, TypeError, ValueError, KeyError, AttributeError, IndexError) as error:
            # A template's own raise, or its code meeting data that it does not expect: both are refusals.
            detail = str(error) or type(error).__name__
            raise RefusedError("messages", "template_refused", f"the chat template refuses them: {detail}") from None


class Prefixes:
    """The prefixes of one conversation, rendered plainly."""

    __slots__ = ("_source", "_tools", "_visible")

    def __init__(
        self, source: ChatTemplateSource, visible: list[dict[str, Any]], tools: Sequence[ToolSpec] | None
    ) -> None:
        self._source = source
        self._visible = visible
        self._tools = tools

    def render(self, count: int, *, add_generation_prompt: bool = False) -> str:
        """The text of the first `count` messages; raises `RefusedError` as `ChatTemplateSource.render` does."""
        return self._source.render_visible(
            self._visible[:count], self._tools, add_generation_prompt=add_generation_prompt
        )


def visible_messages(messages: Sequence[Message]) -> list[dict[str, Any]]:
    """Messages as a template sees them: no null values, reasoning under every name templates read, no loss weights."""
    visible: list[dict[str, Any]] = []
    for message in messages:
        if len(message) == 2 and type(message.get("content")) is str:  # role and content: as they are
            visible.append(dict(message))
            continue
        seen = {k: v for k, v in message.items() if v is not None and k not in _NOT_FOR_TEMPLATES}
        if "reasoning_content" in seen or "thinking" in seen or "reasoning" in seen:
            reasoning = next(seen[field] for field in _REASONING_FIELDS if field in seen)
            seen = {"thinking": reasoning, **seen, "reasoning_content": reasoning}
        visible.append(seen)
    return visible


def _trace_message(message: dict[str, Any], origin: str) -> dict[str, Any]:
    traced = trace(message, origin)
    if message.get("role") in ROLES:
        # Templates build control tokens from known roles ('<|' + role + '|>'): those are the template's doing.
        traced["role"] = message["role"]
    return traced


def _without_marks(marked: str) -> TracedText:
    text, origin = str.__str__(marked), origin_of(marked)
    generation: list[tuple[int, int]] = []
    if _OPEN in text:
        kept_text: list[str] = []
        kept_origin: list[str] = []
        position = start = 0
        for i, character in enumerate(text):
            if origin[i] == TEMPLATE and character in (_OPEN, _CLOSE):
                if character == _CLOSE:
                    generation.append((start, position))
                start = position
                continue
            kept_text.append(character)
            kept_origin.append(origin[i])
            position += 1
        text, origin = "".join(kept_text), "".join(kept_origin)
    return TracedText("".join(text), origin, generation)

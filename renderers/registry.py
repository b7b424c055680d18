"""`get_renderer`: from a renderer's name, or a model's own chat template, to a renderer. Never from a model's name."""

from __future__ import annotations

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import lru_cache
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

from . import families
from .base import Renderer
from .chat_template import ChatTemplate, default_template
from .errors import OptionError
from .family import Family
from .tokenizer import Tokenizer, get_tokenizer

__all__ = ["get_renderer", "renderer_names"]

_ENTRY_POINTS = "datumloom.renderers"


@lru_cache(maxsize=1)
def _families() -> dict[str, tuple[type[Family], Mapping[str, Any]]]:
    """Every known name, with its class and the options that the name stands for."""
    found: dict[str, tuple[type[Family], Mapping[str, Any]]] = {}
    classes: list[type[Family]] = []
    for module in pkgutil.iter_modules(families.__path__):
        if not module.name.startswith("_"):
            classes += importlib.import_module(f"{families.__name__}.{module.name}").RENDERERS
    for entry_point in entry_points(group=_ENTRY_POINTS):
        loaded = entry_point.load()
        classes += [loaded] if isinstance(loaded, type) else loaded
    for family in classes:
        for name, options in {family.name: {}, **family.aliases}.items():
            if name in found:
                raise OptionError(
                    f"renderer {name!r} is registered twice: by {found[name][0].__module__} and {family.__module__}"
                )
            found[name] = (family, options)
    return found


def renderer_names() -> list[str]:
    """All names that `get_renderer` knows, besides model folders and hub ids.

    >>> {"chat_template", "llama3", "qwen3"} <= set(renderer_names())
    True
    """
    return sorted([*_families(), ChatTemplate.name])


def get_renderer(name_or_model: str | Path, tokenizer: Any = None, **options: Any) -> Renderer:
    """A renderer by name, or the one of a model.

    Args:
        name_or_model: a name from `renderer_names()`; `auto` for the tokenizer's own template; or a model folder or
            hub id, whose own template decides. A template that no family reproduces is run itself (`chat_template`),
            and `renderer.choice` says so.
        tokenizer: a datumloom, transformers or tokenizers tokenizer, or a folder or hub id; may be left out when
            `name_or_model` is a model.
        options: the renderer's options, checked by name and type.

    Raises:
        OptionError: an unknown name or option.
        UserError: no tokenizer, or a model without a chat template.

    >>> get_renderer("qwen3", "fixtures/tiny-chat", thinking=False).options
    {'thinking': False}
    """
    name = str(name_or_model)
    if name in _families() or name in (ChatTemplate.name, "auto"):
        if tokenizer is None:
            raise OptionError(f"tokenizer: expected one for the renderer {name!r}; got None")
        return _by_name(name, get_tokenizer(tokenizer), options)
    if "/" not in name and not Path(name).is_dir():
        raise OptionError(
            f"renderer: expected a model folder, a hub id or one of {', '.join(renderer_names())}; got {name!r}"
        )
    return _by_name("auto", get_tokenizer(name if tokenizer is None else tokenizer), options)


def _by_name(name: str, tokenizer: Tokenizer, options: dict[str, Any]) -> Renderer:
    if name == ChatTemplate.name:
        renderer: Renderer = ChatTemplate(tokenizer, **options)
        renderer.choice = "by name"
        return renderer
    if name != "auto":
        family, named = _families()[name]
        renderer = family(tokenizer, **{**named, **options})
        renderer.choice = "by name"
        return renderer
    template = default_template(tokenizer)
    digest = hashlib.sha256(template.encode()).hexdigest()
    for family, _ in _families().values():
        if digest in family.templates:
            renderer = family(tokenizer, **{**family.templates[digest], **options})
            renderer.template_hash = digest
            renderer.choice = f"{family.name}: it reproduces this model's chat template"
            return renderer
    renderer = ChatTemplate(tokenizer, **options)
    renderer.choice = "chat_template: no family reproduces this model's chat template, so the template itself is run"
    return renderer

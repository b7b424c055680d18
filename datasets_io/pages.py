"""Self-contained HTML pages: one template environment, one style sheet, one way to write a page.

A page fetches nothing (its Content-Security-Policy says so too), opens from `file://`, and escapes all that it shows.
"""

from __future__ import annotations

import base64
import hashlib
import os
from functools import cache
from pathlib import Path
from typing import Any

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from renderers import OptionError

from .atomic import write_bytes
from .visible import printable

__all__ = ["render_page", "template_text", "write_page"]

_GENERATOR = b'<meta name="generator" content="datumloom">'
_HEAD_BYTES = 1024
_OWN = "datasets_io"


@cache
def _environment(package: str) -> Environment:
    environment = Environment(
        # Another package's pages extend ours and share our styles.
        loader=ChoiceLoader([PackageLoader(name) for name in dict.fromkeys((package, _OWN))]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["printable"] = printable
    return environment


def template_text(name: str, package: str = _OWN) -> str:
    """A file of the templates folder of `package`, else of ours, as it is."""
    environment = _environment(package)
    assert environment.loader is not None
    return environment.loader.get_source(environment, name)[0]


def render_page(
    template: str, *, styles: list[str], script: str | None = None, package: str = _OWN, **values: Any
) -> str:
    """A whole page.

    Args:
        template: file of the templates folder that extends `base.html.j2`.
        styles: CSS files for its head.
        script: JavaScript file that the template puts into its one `<script>`; None: the page runs none.
        package: whose templates folder is looked into before ours.
        values: for the template.
    """
    code = "" if script is None else template_text(script, package)
    digest = base64.b64encode(hashlib.sha256(code.encode()).digest()).decode()
    values["css"] = Markup("".join(template_text(name, package) for name in styles))  # noqa: S704 - our own files
    values["script"] = Markup(code)  # noqa: S704
    values["script_source"] = f"'sha256-{digest}'" if script else "'none'"
    return _environment(package).get_template(template).render(**values)


def write_page(path: str | os.PathLike[str], page: str) -> int:
    """Write a page, whole or not at all, over an earlier page of ours if there is one; returns its size in bytes.

    Raises:
        OptionError: there is something else.
    """
    target = Path(path)
    if target.is_dir():
        raise OptionError(f"{path}: expected the name of a file for the page; got a folder")
    if target.exists():
        with target.open("rb") as stream:
            if _GENERATOR not in stream.read(_HEAD_BYTES):
                raise OptionError(f"{path}: expected a new file or a page of ours; got another file")
    data = page.encode()
    write_bytes(target, data)
    return len(data)

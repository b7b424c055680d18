"""Options under headings in a command's help."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import click

__all__ = ["GroupedCommand", "grouped_option"]

_OTHER = "Other"
_F = TypeVar("_F", bound=Callable[..., Any])


class _GroupedOption(click.Option):
    def __init__(self, *args: Any, group: str, **attributes: Any) -> None:
        super().__init__(*args, **attributes)
        self.group = group


def grouped_option(group: str, *names: str, **attributes: Any) -> Callable[[_F], _F]:
    """`click.option` under the heading `group`."""
    return click.option(*names, cls=_GroupedOption, group=group, **attributes)


class GroupedCommand(click.Command):
    """Writes the options under their headings, in the order in which they are declared."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        groups: dict[str, list[tuple[str, str]]] = {}
        for param in self.get_params(ctx):
            record = param.get_help_record(ctx) if isinstance(param, click.Option) else None
            if record is not None:
                group = param.group if isinstance(param, _GroupedOption) else _OTHER
                groups.setdefault(group, []).append(record)
        for group, records in sorted(groups.items(), key=lambda item: item[0] == _OTHER):
            with formatter.section(group):
                formatter.write_dl(records)

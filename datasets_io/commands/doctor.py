"""`datumloom doctor`: what is installed, what is missing and which extra brings it, what is wrong."""

from __future__ import annotations

from dataclasses import asdict
from itertools import groupby
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ..doctor import Finding

__all__ = ["command"]


@click.command()
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
@click.pass_context
def command(ctx: click.Context, as_json: bool) -> None:
    """Say what is installed, what is missing and which extra brings it, and what is wrong.

    Exits 1 when something that rendering needs is wrong; a missing optional library is fine.
    """
    from ..doctor import State, library_findings, machine_findings, ownership_findings

    findings = [*library_findings(), *ownership_findings(), *machine_findings()]
    wrong = [finding for finding in findings if finding.state is State.WRONG]
    click.echo(_as_json(findings, healthy=not wrong) if as_json else _as_text(findings, len(wrong)))
    ctx.exit(1 if wrong else 0)


def _as_json(findings: list[Finding], *, healthy: bool) -> str:
    import json

    return json.dumps({"healthy": healthy, "findings": [asdict(finding) for finding in findings]}, indent=2)


def _as_text(findings: list[Finding], num_wrong: int) -> str:
    width = max(len(finding.name) for finding in findings)
    lines: list[str] = []
    for section, members in groupby(findings, key=lambda finding: finding.section):
        lines.append(section)
        for finding in members:
            advice = f" - {finding.advice}" if finding.advice else ""
            lines.append(f"  {finding.state:<7}  {finding.name:<{width}}  {finding.value}{advice}")
    lines.append(f"{num_wrong} wrong" if num_wrong else "the base is fine")
    return "\n".join(lines)

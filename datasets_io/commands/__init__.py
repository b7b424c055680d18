"""The bodies of the commands, one module each with one `command`; `cli` imports a module when its command is called.

A module here imports no heavy library at its top: `datumloom NAME --help` imports it.
"""

from __future__ import annotations

__all__: list[str] = []

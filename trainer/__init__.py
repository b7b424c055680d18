"""Datums become gradients and samples, behind the Tinker protocol.

The name belongs to the distribution from its first release on, so that `datumloom doctor` can tell when another one
owns it.
"""

from __future__ import annotations

__all__: list[str] = []

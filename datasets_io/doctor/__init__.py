"""What `datumloom doctor` looks at, one module per kind of thing; each gives a list of `Finding`."""

from __future__ import annotations

from .findings import Finding, State
from .libraries import library_findings
from .machine import machine_findings
from .ownership import ownership_findings

__all__ = ["Finding", "State", "library_findings", "machine_findings", "ownership_findings"]

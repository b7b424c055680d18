"""Products with frozen weights, by the faster library.

torch hands float32 products on a CPU to MKL, which runs its narrow kernels on processors that are not Intel's; oneDNN
uses the full vector width there (measured 2.3 times on a Zen 5 core), with the same float32 accumulation. The choice
depends on the machine alone, never on a timing, so results repeat bit for bit. The operator is private to torch:
where it is missing, or refuses, plain torch does the work.
"""

from __future__ import annotations

import functools
import logging
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

__all__ = ["linear", "product", "runs_on_intel"]

logger = logging.getLogger(__name__)


@functools.cache
def runs_on_intel() -> bool:
    """Whether this machine's processor is Intel's; True where that cannot be told."""
    cpuinfo = Path("/proc/cpuinfo")
    return not cpuinfo.exists() or "GenuineIntel" in cpuinfo.read_text("utf-8", errors="replace")


@functools.cache
def _onednn() -> Any | None:
    """oneDNN's float32 linear, or None where MKL is as good or the operator is not there."""
    if runs_on_intel() or not torch.backends.mkldnn.is_available():
        return None
    try:
        operator = torch.ops.mkldnn._linear_pointwise  # noqa: SLF001
        left, right = torch.eye(3, 5), torch.ones(4, 5)
        found = operator(left, right, None, "none", [], "")
        if torch.equal(found, left @ right.T):
            return operator
    except (AttributeError, RuntimeError, TypeError) as error:
        logger.info("oneDNN's float32 product is not used: %s", error)
    return None


def _fits(x: Tensor) -> bool:
    return x.dtype == torch.float32 and x.device.type == "cpu" and x.dim() == 2 and x.shape[0] > 1


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weight.T + bias for x (T, I), weight (O, I); no gradient flows through it.

    The weight may be one that oneDNN has laid out for itself (the sampler's).
    """
    if weight.is_mkldnn:
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")  # noqa: SLF001
    operator = _onednn() if _fits(x) else None
    if operator is None:
        return functional.linear(x, weight, bias)
    return operator(x, weight, bias, "none", [], "")


def product(x: Tensor, weight: Tensor) -> Tensor:
    """x @ weight for x (T, O), weight (O, I); no gradient flows through it."""
    operator = _onednn() if _fits(x) else None
    if operator is None:
        return x @ weight
    return operator(x, weight.T, None, "none", [], "")

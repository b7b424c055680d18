"""Token ids become samples, many at a time, on the trainer's own forward. Importing this imports torch.

sampler = Sampler(base)
future = sampler.submit(prompt, SamplingParams(max_tokens=64), adapter=AdapterSnapshot.of(engine, adapter_id))
sampler.run_until_idle()
"""

from __future__ import annotations

from .sampler import Sampler
from .snapshot import AdapterSnapshot
from .stats import SamplerStats

__all__ = ["AdapterSnapshot", "Sampler", "SamplerStats"]

"""What the sampler has done so far, for metrics and for tests."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["SamplerStats"]


@dataclass
class SamplerStats:
    """Counts since the sampler was made.

    Attributes:
        prefilled_tokens: prompt tokens computed.
        cache_hit_tokens: prompt tokens whose keys and values were there already.
        decoded_tokens: tokens fed one at a time; the first token of a sample comes from its prefill.
        decode_steps: passes they were fed in.
        preempted: samples and prompts sent back to wait because memory ran out.
        failed: requests that ended with a fault.
    """

    prefilled_tokens: int = 0
    cache_hit_tokens: int = 0
    decoded_tokens: int = 0
    decode_steps: int = 0
    preempted: int = 0
    failed: int = 0

"""Attention fusion: attention runs as one fused kernel instead of a chain of operations over the square score matrix.

Every method finds attention in the model it is given and proves on the example that its own form gives the same
outputs. Sources stand in the files of the methods.
"""

from __future__ import annotations

from hybrid_core.strategies.attention.flash import FLASH
from hybrid_core.strategies.attention.flex import FLEX
from hybrid_core.strategies.attention.library_sdpa import LIBRARY_SDPA
from hybrid_core.strategies.attention.mla_absorb import MLA_ABSORB
from hybrid_core.strategies.attention.sdpa import SDPA, SDPA_CAUSAL
from hybrid_core.strategies.base import Family

ATTENTION_FUSION = Family(
    name="attention_fusion",
    title="Attention fusion",
    purpose="Replaces written-out attention by one fused kernel that never stores the square score matrix.",
    claimed={"speed": 1.3, "memory": 1.4, "accuracy": 0.98},
    methods=(SDPA, SDPA_CAUSAL, LIBRARY_SDPA, FLASH, FLEX, MLA_ABSORB),
)

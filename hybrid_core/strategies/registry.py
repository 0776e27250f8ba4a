"""The explicit list of strategies, and the one place that turns names into them.

A tuple instead of import magic: adding a strategy is one file, one test and one line here, and a test checks that
every strategy file is listed. Unknown names are refused, never ignored.
"""

from __future__ import annotations

from hybrid_core.errors import InvalidInput
from hybrid_core.strategies.attention_fusion import ATTENTION_FUSION
from hybrid_core.strategies.base import Setting, Strategy
from hybrid_core.strategies.kernel_fusion import KERNEL_FUSION
from hybrid_core.strategies.memory_pooling import MEMORY_POOLING
from hybrid_core.strategies.quantization import QUANTIZATION

STRATEGIES: tuple[Strategy, ...] = (KERNEL_FUSION, QUANTIZATION, MEMORY_POOLING, ATTENTION_FUSION)


def get_strategy(name: str) -> Strategy:
    """The strategy of that name; `InvalidInput` lists the known names."""
    for strategy in STRATEGIES:
        if strategy.name == name:
            return strategy
    known = ", ".join(strategy.name for strategy in STRATEGIES)
    raise InvalidInput(f"strategy '{name}' does not exist; choose one of: {known}")


def get_setting(strategy: str, setting: str) -> Setting:
    """The declared setting; `InvalidInput` lists the settings of the strategy."""
    declared = get_strategy(strategy).settings
    for candidate in declared:
        if candidate.name == setting:
            return candidate
    known = ", ".join(candidate.name for candidate in declared)
    raise InvalidInput(f"strategy '{strategy}' has no setting '{setting}'; choose one of: {known}")

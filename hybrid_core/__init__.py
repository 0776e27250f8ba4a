"""The science of the project, and the names people import.

Exports are loaded on first use (PEP 562), because `hybrid_core.records` and `hybrid_core.config` are read by processes
that must never load torch: the hub, the command line and the pages. `from hybrid_core import apply_recipe` loads torch,
`import hybrid_core` does not.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hybrid_core.application import apply_recipe as apply_recipe
    from hybrid_core.candidate_selector import CandidateSelector as CandidateSelector
    from hybrid_core.candidates import HybridOptimizationStrategy as HybridOptimizationStrategy
    from hybrid_core.config import HybridOptimizationConfig as HybridOptimizationConfig
    from hybrid_core.core import HybridOptimizationCore as HybridOptimizationCore
    from hybrid_core.core import create_hybrid_optimization_core as create_hybrid_optimization_core
    from hybrid_core.models.registry import get_all_models as get_all_models
    from hybrid_core.rl.environment import OptimizationEnvironment as OptimizationEnvironment
    from hybrid_core.rl.networks import PolicyNetwork as PolicyNetwork
    from hybrid_core.rl.networks import ValueNetwork as ValueNetwork
    from hybrid_core.rl.optimizer import HybridRLOptimizer as HybridRLOptimizer
    from hybrid_core.universal import UniversalModelOptimizer as UniversalModelOptimizer
    from hybrid_core.universal import create_universal_optimizer as create_universal_optimizer

_HOME = {
    "CandidateSelector": "hybrid_core.candidate_selector",
    "HybridOptimizationConfig": "hybrid_core.config",
    "HybridOptimizationCore": "hybrid_core.core",
    "HybridOptimizationStrategy": "hybrid_core.candidates",
    "HybridRLOptimizer": "hybrid_core.rl.optimizer",
    "OptimizationEnvironment": "hybrid_core.rl.environment",
    "PolicyNetwork": "hybrid_core.rl.networks",
    "UniversalModelOptimizer": "hybrid_core.universal",
    "ValueNetwork": "hybrid_core.rl.networks",
    "apply_recipe": "hybrid_core.application",
    "create_hybrid_optimization_core": "hybrid_core.core",
    "create_universal_optimizer": "hybrid_core.universal",
    "get_all_models": "hybrid_core.models.registry",
}

__all__ = sorted(_HOME)  # noqa: PLE0605


def __getattr__(name: str) -> Any:
    """Load an exported name from its module on first use and remember it."""
    if name not in _HOME:
        raise AttributeError(f"hybrid_core has no attribute {name!r}; it exports {', '.join(sorted(_HOME))}")
    value = getattr(importlib.import_module(_HOME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """Exported names first, so that completion offers them before they are loaded."""
    return sorted({*globals(), *_HOME})

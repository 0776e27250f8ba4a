"""RL-enhanced selection: a policy trained on the run's own measurements chooses the parents.

The networks and losses live in `hybrid_core.rl`; this file only keeps the bounds every method shares: the policy never
sees a failed candidate, so it cannot choose one, and it returns positions in exactly the list it was given (the
original code used a strategy's number as a candidate's, so no ensemble could ever be chosen).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection.base import Choice, ScoredCandidate, check_count, eligible


def select(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> list[ScoredCandidate]:
    """`count` parents chosen by the policy; its seed is drawn from `rng`."""
    return choose(scored, count, rng, options).parents


def choose(
    scored: Sequence[ScoredCandidate], count: int, rng: random.Random, options: HybridOptimizationConfig
) -> Choice:
    """The parents and what the policy reports about its training.

    The policy ranks distinct candidates; where more parents are asked for, they are taken again from the top.
    """
    pool = eligible(scored)
    if check_count(count) == 0 or not pool:
        return Choice([], {})
    # Imported here because it loads torch, which the other methods do not need.
    from hybrid_core.rl.selector import RLSelector

    positions, details = RLSelector(options, rng.getrandbits(31)).choose(pool, count)
    parents = [pool[positions[i % len(positions)]] for i in range(count)]
    return Choice(parents, _as_dict(details))


def _as_dict(details: Any) -> dict[str, Any]:
    return dict(details) if details else {}

"""Every selection method of the registry keeps the contract, and the contract notices each way to break it."""

import math
import random

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.selection import rank, tournament
from hybrid_core.selection.base import check_count, eligible
from hybrid_core.selection.registry import METHODS, SelectionMethod
from tests.contracts.selection_contract import check_selection_method

QUICK = {"rl_max_episodes": 2, "rl_hidden_dim": 8, "enable_vapo": False}
VARIANTS = {
    "tournament": [{}, {"tournament_replacement": True}, {"tournament_size": 7}],
    "roulette": [{}, {"roulette_scaling": "sigma"}, {"roulette_scaling": "boltzmann"}],
    "sus": [{}, {"roulette_scaling": "sigma"}, {"roulette_scaling": "boltzmann"}],
    "rank": [{}, {"rank_pressure": 1.0}, {"rank_pressure": 2.0}],
    "exponential_rank": [{}, {"rank_decay": 0.4}],
    "pareto": [{}],
    "rl": [{}],
}


@pytest.mark.parametrize(
    ("method", "options"), [pytest.param(m, o, id=f"{m.name} {o}") for m in METHODS for o in VARIANTS[m.name]]
)
def test_the_method_keeps_the_contract(method, options):
    check_selection_method(method, HybridOptimizationConfig(**QUICK, **options))


def fair(pool, options):
    return rank.probabilities([candidate.fitness for candidate in pool])


def takes_failed(scored, count, rng, options):
    return rng.choices(scored, k=count) if scored else []


def takes_what_is_no_number(scored, count, rng, options):
    pool = [c for c in scored if c.ok]
    chances = fair([c for c in pool if math.isfinite(c.fitness)], options)
    return rng.choices(pool[: len(chances)], weights=chances, k=count) if pool and count > 0 else []


def gives_fewer(scored, count, rng, options):
    return rank.select(scored, count, rng, options)[: len(scored)]


def sorts_its_input(scored, count, rng, options):
    chosen = rank.select(scored, count, rng, options)
    scored.sort(key=lambda candidate: candidate.recipe.key, reverse=True)
    return chosen


def rolls_the_global_dice(scored, count, rng, options):
    return rank.select(scored, count, random, options)


def keeps_a_memory(scored, count, rng, options, _calls=[]):  # noqa: B006
    _calls.append(count)
    return rank.select(scored, count, random.Random(len(_calls)), options)


def breaks_ties_by_position(scored, count, rng, options):
    pool = eligible(scored)
    meeting = tournament.select(scored, count, rng, options)
    return [max(pool, key=lambda c: c.fitness == winner.fitness) for winner in meeting]


def prefers_the_worst(scored, count, rng, options):
    pool = eligible(scored)
    if check_count(count) == 0 or not pool:
        return []
    return rng.choices(pool, weights=rank.probabilities([-candidate.fitness for candidate in pool]), k=count)


def raw_share(pool, options):
    """Raw fitness as a share: neither sure to be positive nor untouched by a shift."""
    return [candidate.fitness / math.fsum(c.fitness for c in pool) for candidate in pool]


BROKEN = [
    (takes_failed, fair, "failed|from nothing|refused"),
    (takes_what_is_no_number, fair, "refused"),
    (gives_fewer, fair, "every place|instead of"),
    (sorts_its_input, fair, "changed the list"),
    (rolls_the_global_dice, fair, "global generator"),
    (keeps_a_memory, fair, "the same seed"),
    (
        breaks_ties_by_position,
        lambda pool, o: tournament.probabilities([c.fitness for c in pool], 3),
        "draws otherwise",
    ),
    (prefers_the_worst, fair, "draws otherwise"),
    (rank.select, lambda pool, o: fair(pool, o)[::-1], "less chance"),
    (rank.select, raw_share, "heeds the unit"),
    (rank.select, lambda pool, o: [1 / len(pool)] * len(pool), "draws otherwise"),
]


@pytest.mark.parametrize(("select", "chances", "said"), BROKEN)
def test_the_contract_fails_a_broken_method(select, chances, said):
    broken = SelectionMethod("broken", "A method with a fault.", select, chances)
    with pytest.raises(AssertionError, match=said):
        check_selection_method(broken, HybridOptimizationConfig())

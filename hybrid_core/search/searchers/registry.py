"""The explicit list of searchers: the name people choose, the sentence they read, how one is made.

`build` imports late where a searcher needs torch or an optional library. `unavailable` says why one cannot be had here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.search.searchers import optuna_adapter
from hybrid_core.search.searchers.adaptive import AdaptiveSearch
from hybrid_core.search.searchers.base import Searcher, Task
from hybrid_core.search.searchers.evolution import RegularizedEvolution
from hybrid_core.search.searchers.genetic import GeneticSearch
from hybrid_core.search.searchers.local import LocalSearch
from hybrid_core.search.searchers.mcts import TreeSearch
from hybrid_core.search.searchers.nsga2 import NsgaII
from hybrid_core.search.searchers.random import RandomSearch
from hybrid_core.search.searchers.surrogate import SurrogateSearch

Build = Callable[[Task, HybridOptimizationConfig], Searcher]


@dataclass(frozen=True)
class SearcherEntry:
    """One searcher. `is_control` marks what is compared with and not offered in the form.

    `uses_history`: what was measured on other models changes what it asks for.
    """

    name: str
    sentence: str
    build: Build
    unavailable: Callable[[], str | None] = lambda: None
    is_control: bool = False
    uses_history: bool = False


def _adaptive(task: Task, options: HybridOptimizationConfig) -> Searcher:
    """The person's own method first among the proposers beside the surrogate."""
    chosen = "rl" if options.selection_method == "rl" else "selection"
    return AdaptiveSearch(task, {name: get_searcher(name).build(task, options) for name in (chosen, "local", "mcts")})


def _learned(task: Task, options: HybridOptimizationConfig) -> Searcher:
    """The policy, with a portfolio and local search to step back to."""
    from hybrid_core.search.searchers.rl import RLSearcher
    from hybrid_core.search.searchers.stepback import PortfolioThenLocal

    return RLSearcher(task, options, PortfolioThenLocal(task))


SEARCHERS: tuple[SearcherEntry, ...] = (
    SearcherEntry(
        "adaptive",
        "Begins with what served other models, then lets a model of the measurements choose, and gives every fourth "
        "turn to whichever other method gains most here.",
        _adaptive,
        uses_history=True,
    ),
    SearcherEntry(
        "surrogate",
        "A Gaussian process predicts every recipe from those measured; the largest expected improvement is next.",
        lambda task, options: SurrogateSearch(task),
        uses_history=True,
    ),
    SearcherEntry(
        "selection",
        "Recombines parents that the selection method draws from everything measured; a genetic algorithm.",
        GeneticSearch,
    ),
    SearcherEntry(
        "local",
        "Tries what is one step away from the best, moves when something is better, and restarts when nothing is.",
        lambda task, options: LocalSearch(task),
    ),
    SearcherEntry(
        "evolution",
        "The best of a few among the latest recipes has a child that differs in one setting; everything dies of age.",
        lambda task, options: RegularizedEvolution(task),
    ),
    SearcherEntry(
        "nsga2",
        "Keeps a small population that is good in speed or memory and spread out, and recombines it.",
        lambda task, options: NsgaII(task),
    ),
    SearcherEntry(
        "mcts",
        "Grows a tree of decisions, one strategy after the other, scored by a model of what was measured.",
        lambda task, options: TreeSearch(task),
    ),
    SearcherEntry(
        "rl",
        "A policy learns on predicted recipes and proposes the few worth measuring; where other models do not predict "
        "one another it steps back to local search.",
        _learned,
        uses_history=True,
    ),
    SearcherEntry(
        "random",
        "Draws recipes at random, each at most once; what every other method has to beat.",
        lambda task, options: RandomSearch(task),
    ),
    SearcherEntry(
        "tpe",
        "Optuna's tree-structured Parzen estimator, a control from outside.",
        lambda task, options: optuna_adapter.OptunaSearch(task, optuna_adapter.make_tpe),
        optuna_adapter.unavailable,
        is_control=True,
    ),
    SearcherEntry(
        "optuna_nsga2",
        "Optuna's NSGA-II with a small population, a control from outside.",
        lambda task, options: optuna_adapter.OptunaSearch(task, optuna_adapter.make_nsga2, objectives=2),
        optuna_adapter.unavailable,
        is_control=True,
    ),
)


def get_searcher(name: str) -> SearcherEntry:
    """The searcher of that name; unknown names are refused with the list of known ones."""
    for entry in SEARCHERS:
        if entry.name == name:
            return entry
    known = ", ".join(entry.name for entry in SEARCHERS)
    raise InvalidInput(f"search method {name!r:.60} is unknown; choose one of {known}")

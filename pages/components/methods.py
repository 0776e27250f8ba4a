"""The ways to search and to choose parents, as a person reads their names; the sentences come from the catalog."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from pages.components.format import one_line

METHOD_TITLES = {
    "tournament": "Tournament",
    "roulette": "Roulette",
    "sus": "Roulette, one spin",
    "rank": "Rank",
    "exponential_rank": "Exponential rank",
    "pareto": "Pareto",
    "rl": "Reinforcement learning",
}
SEARCH_TITLES = {
    "adaptive": "Adaptive",
    "selection": "Selection and recombination",
    "random": "Random",
    "local": "Local search",
    "evolution": "Evolution",
    "nsga2": "NSGA-II",
    "mcts": "Tree search",
    "surrogate": "Surrogate",
    "rl": "Reinforcement learning",
    # Proposers inside a search.
    "start": "Starting points",
    "portfolio": "Portfolio",
    "first single": "First single settings",
    "likeliest": "Likeliest by the prior",
}
# The ways to search in which the selection method has a say.
RECOMBINING = ("adaptive", "selection")
# One sentence for the form, the command line's help and the pages.
HOW_THEY_RELATE = (
    "The search method proposes the next recipes; the selection method chooses parents wherever recipes are "
    "recombined: always with 'selection', and as one of the proposers of 'adaptive'. The others need no parents."
)


def options_of(run: Mapping[str, Any]) -> Mapping[str, Any]:
    """The options of the search that a run was started with."""
    return (run.get("config") or {}).get("options") or {}


def search_method_of(run: Mapping[str, Any]) -> str:
    """How a run proposed its recipes; before there was a choice all of them recombined what was selected."""
    return str(options_of(run).get("search_method") or "selection")


def learns_a_policy(run: Mapping[str, Any]) -> bool:
    """Whether reinforcement learning takes part in the search of a run."""
    search = search_method_of(run)
    return search == "rl" or (search in RECOMBINING and run.get("method") == "rl")


def method_title(name: Any) -> str:
    """A selection method's title; an unknown one is shown as it is."""
    return METHOD_TITLES.get(str(name), one_line(name, 60))


def search_title(name: Any) -> str:
    """A search method's or proposer's title; an unknown one is shown as it is.

    >>> search_title("mcts"), search_title("prior_mean")
    ('Tree search', 'Prior mean')
    """
    return SEARCH_TITLES.get(str(name), one_line(name, 60).replace("_", " ").capitalize())

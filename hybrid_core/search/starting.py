"""Where a search begins, told in one event: what earlier runs found, what is known of other models, or claims.

Claims, the strategies that the original document lists for a family, are tried first only where nothing measured is
known at all: measured on other models beats promised for this one.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.adaptive.recommend import DOCUMENT, HISTORY
from hybrid_core.records import Recipe
from hybrid_core.search import proposals
from hybrid_core.search.bench import Bench
from hybrid_core.search.seen import SHIPPED

OTHERS = "other models"


class Beginning:
    """The first recipes of a search, and the single settings in the order in which they are worth trying.

    Attributes:
        recommended: what earlier runs on the family found good, best first.
        starts: those, or where nothing is known one recipe for each strategy that the document lists for the family.
        opening: the starts, then the single settings that cost little; `later` those that cost much.
    """

    def __init__(self, bench: Bench, history: Sequence[HistoryRow], family: str, others: Sequence[str] = ()) -> None:
        """`others` are the earlier models that have something to say to the searcher."""
        options, space, config = bench.options, bench.space, bench.config
        self.recommended, documented, named = list[Recipe](), list[Recipe](), tuple[str, ...]()
        if options.enable_adaptive_hybrid:
            own = [row for row in history if (not family or row.family == family) and not row.is_shipped]
            self.recommended = proposals.recommended(own, config, space, bench.is_open)
            named = proposals.documented_strategies(family)
        singles = proposals.order_singles(space, bench.costs.expected_s, options, first=named)
        cheap, self.later = proposals.split_expensive(singles, bench.costs.expected_s, config.budget_s)
        if not self.recommended and not others:
            documented = proposals.documented(named, list(filter(bench.is_open, cheap)))
        self.starts = self.recommended or documented
        self.opening = list(dict.fromkeys((*self.starts, *cheap)))
        told = starting_points(family, self.recommended, documented, named, others)
        if told is not None:
            bench.emit("starting_points", told)


def starting_points(
    family: str,
    recommended: Sequence[Recipe],
    documented: Sequence[Recipe],
    strategies: Sequence[str],
    others: Sequence[str] = (),
) -> dict[str, Any] | None:
    """The data of the "starting_points" event; None where the search begins with the singles as they come.

    `documented` holds the first recipes of the `strategies` that the document lists for the family, `others` the names
    of earlier models.
    """
    recipes = recommended or documented
    if not recipes:
        return others_told(family, others) if others else None
    keys = [recipe.key for recipe in recipes]
    if recommended:
        sentence = (
            f"the search begins with what earlier runs on {family or 'such'} models found good: {', '.join(keys)}"
        )
    else:
        sentence = (
            f"nothing good is known of {family} models yet, so the search begins with the strategies that the original "
            f"document lists for them ({', '.join(strategies)}): {', '.join(keys)}; what it claims of them is measured"
        )
        missing = [name for name in strategies if name not in {recipe.strategies[0] for recipe in documented}]
        if missing:
            sentence += f"; {', '.join(missing)} has no setting that can be tried now at little cost"
    return {"source": HISTORY if recommended else DOCUMENT, "family": family, "keys": keys, "sentence": sentence}


def others_told(family: str, others: Sequence[str]) -> dict[str, Any]:
    """The same where the search is only told what was measured of others."""
    count, shipped = len(others), sum(name.endswith(SHIPPED) for name in others)
    sentence = f"the search is told what was measured before on {count} model{'s and workloads' if count > 1 else ''}"
    if shipped:
        elsewhere = f"all of {'them' if count > 1 else 'it'}" if shipped == count else f"{shipped} of them"
        sentence += f", {elsewhere} by this project on another machine with such a processor; here all is measured anew"
    return {"source": OTHERS, "family": family, "keys": [], "models": list(others), "sentence": sentence}

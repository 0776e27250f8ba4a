"""The staged search: singles, pairs of the good ones, larger ensembles, then children of chosen parents.

It measures every single setting that fits, so that it can say of each what it is worth alone, and leaves recombination
to the person's selection method. With `enable_candidate_selection` off there is one round and nobody is chosen.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence

from hybrid_core.records import Recipe, to_json
from hybrid_core.search import proposals
from hybrid_core.search.bench import Bench
from hybrid_core.search.result import Stop
from hybrid_core.search.rounds import Round
from hybrid_core.search.starting import Beginning
from hybrid_core.selection.registry import choose_parents


class Staged:
    """The plan of the search method "selection"."""

    def __init__(self, bench: Bench, beginning: Beginning, rng: random.Random) -> None:
        self.bench, self.beginning, self.rng = bench, beginning, rng
        self.options, self.space = bench.options, bench.space

    @property
    def recommended(self) -> Sequence[Recipe]:
        """What earlier runs on the family found good."""
        return self.beginning.recommended

    def settled(self) -> Stop | None:
        """Never by itself: rounds of recombination are judged by what they gained."""
        return None

    def rounds(self) -> Iterator[Round]:
        """The opening; pairs and what was put off; what extends the best ensemble; then children."""
        bench = self.bench
        opening, later = self.beginning.opening, self.beginning.later
        bench.iteration = 1
        if not self.options.enable_candidate_selection:
            pairs = proposals.cheapest_pairs(self.space, bench.costs.expected_s, bench.is_open)
            proposed = [*opening, *pairs[: self.options.num_candidates], *later]
            yield Round(list(dict.fromkeys(proposed)), "measuring every proposed candidate once")
            return
        yield Round(opening, "measuring the single settings", may_pause=True)
        good = bench.book.good_singles()
        pairs = proposals.pairs_of_good(self.space, good, self.options, bench.is_open)[: self.options.num_candidates]
        second = [*pairs, *filter(bench.is_open, [*opening, *later])]
        if second:
            bench.iteration += 1
            yield Round(second, "measuring pairs of the good settings, then the settings that were put off")
        yield from self.extensions()
        while True:
            bench.iteration += 1
            yield Round(self.children(), "measuring recombinations of the chosen parents", may_converge=True)

    def extensions(self) -> Iterator[Round]:
        """Triples, then quadruples: good settings added to the best ensemble as long as that raises its fitness."""
        bench, before = self.bench, -math.inf
        while (best := bench.book.best_ensemble()) is not None and best[1] > before:
            before = best[1]
            proposed = proposals.extensions(self.space, best[0], bench.book.good_singles(), self.options, bench.is_open)
            affordable = [recipe for recipe in proposed if bench.fits(recipe)][: self.options.num_candidates]
            if not affordable:
                return
            bench.iteration += 1
            yield Round(affordable, f"adding further good settings to {best[0].recipe.key}")

    def children(self) -> list[Recipe]:
        """Let the selection method choose parents, and recombine them into recipes that are open and affordable."""
        method, count = self.options.selection_method, self.options.num_candidates
        choice = choose_parents(method, self.bench.book.scored(), max(2, count), self.rng, self.options)
        parents = [parent.recipe for parent in choice.parents]
        proposed = proposals.recombine(
            self.space, parents, count, self.rng, lambda recipe: self.bench.is_open(recipe) and self.bench.fits(recipe)
        )
        self.bench.emit(
            "selection",
            {
                "iteration": self.bench.iteration,
                "method": method,
                "parents": [parent.key for parent in parents],
                "proposals": [recipe.key for recipe in proposed],
                "details": to_json(choice.details),
            },
        )
        return proposed

"""Letting a searcher choose what is measured next: it is told every trial and asked for one recipe at a time.

One at a time, because a candidate costs seconds to minutes and asking costs milliseconds: what the last trial showed is
always used. What was predicted, and by whom, is told before the measurement, so that anybody can compare the two.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from typing import Any

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.records import Recipe, to_json
from hybrid_core.search import stopping
from hybrid_core.search.bench import Bench
from hybrid_core.search.result import Stop
from hybrid_core.search.rounds import Round
from hybrid_core.search.searchers.base import Searcher, Task
from hybrid_core.search.searchers.registry import get_searcher
from hybrid_core.search.searchers.transfer import LEAST_SEEN, known_here
from hybrid_core.search.seen import earlier_models, seen_of_trial
from hybrid_core.search.starting import Beginning


class Asking:
    """One searcher at work on one bench."""

    def __init__(self, bench: Bench, history: Sequence[HistoryRow], rng: random.Random, family: str) -> None:
        """`history` rows of any model; those of this model, then of its `family`, count as nearest."""
        options = bench.options
        entry = get_searcher(options.search_method)
        earlier = earlier_models(history, bench.config, family) if options.enable_adaptive_hybrid else {}
        telling = tuple(name for name, seen in earlier.items() if len(known_here(bench.space, seen)) >= LEAST_SEEN)
        beginning = Beginning(bench, history, family, telling)
        self.name, self._bench = entry.name, bench
        task = Task(
            bench.space,
            rng,
            earlier,
            bench.costs.expected_s,
            math.log(options.min_speed_improvement) if options.min_speed_improvement > 0 else -math.inf,
            tuple(beginning.starts),
        )
        self.searcher: Searcher = entry.build(task, options)
        self.recommended: Sequence[Recipe] = beginning.recommended
        self._told: set[str] = set()
        self._bests: list[float] = []

    def rounds(self) -> Iterator[Round]:
        """Rounds of `num_candidates` trials, each chosen when the one before has been measured."""
        while True:
            self._bench.iteration += 1
            yield Round(self._one_by_one(), f"measuring what the method {self.name} proposes")

    def settled(self) -> Stop | None:
        """The last trials gained little and nothing that is left promises more than can be told apart."""
        if len(self._bests) < stopping.SETTLED_AFTER:
            return None
        self.tell_news()
        book, before = self._bench.book, self._bests[-stopping.SETTLED_AFTER]
        expected, floor = self.largest_expected_gain(), book.noise_floors["speed"]
        return stopping.settled(before, book.best()[1].value, expected, floor, self._bench.options)

    def _one_by_one(self) -> Iterator[Recipe]:
        for left in range(self._bench.options.num_candidates, 0, -1):
            recipe = self.next()
            if recipe is None:
                return
            # Unknown yet, so they stand in the plan as trials without steps.
            self._bench.queue = [Recipe()] * (left - 1)
            self._bests.append(self._bench.book.best()[1].value)
            yield recipe

    def next(self) -> Recipe | None:
        """The recipe to measure now; None when nothing that is left may be tried and fits."""
        self.tell_news()
        found = self.searcher.ask(1, self._may_run)
        if not found:
            return None
        notes = self.searcher.notes()
        self._tell_selection(notes, found)
        proposals = notes.get("proposals") or [{"key": recipe.key, "by": self.name} for recipe in found]
        rest = {name: value for name, value in notes.items() if name != "proposals"}
        sentence = f"{self.name} proposes {', '.join(recipe.key for recipe in found)}"
        data = {"searcher": self.name, "sentence": sentence, "proposals": proposals, "notes": to_json(rest)}
        self._bench.emit("proposals", {"iteration": self._bench.iteration, **data})
        return found[0]

    def tell_news(self) -> None:
        """Hand on every trial of the search that the searcher has not heard of."""
        for key, trial in list(self._bench.book.search.items()):
            if key not in self._told:
                self._told.add(key)
                self.searcher.tell(seen_of_trial(trial, self._bench))

    def largest_expected_gain(self) -> float | None:
        """What an untried recipe is still expected to gain, in log fitness; None where the searcher cannot say."""
        ask = getattr(self.searcher, "largest_expected_gain", None)
        return None if ask is None else float(ask(self._may_run))

    def _may_run(self, recipe: Recipe) -> bool:
        return self._bench.is_open(recipe) and self._bench.fits(recipe)

    def _tell_selection(self, notes: dict[str, Any], found: Sequence[Recipe]) -> None:
        """The draw of parents as an event of its own, as the staged search tells it."""
        drawn = notes if "parents" in notes else next((n for n in notes.values() if _has_parents(n)), None)
        if drawn is not None:
            method, parents = self._bench.options.selection_method, list(drawn["parents"])
            data: dict[str, Any] = {"method": method, "parents": parents, "proposals": [recipe.key for recipe in found]}
            data |= {"iteration": self._bench.iteration, "details": to_json(drawn.get("details", {}))}
            self._bench.emit("selection", data)


def _has_parents(notes: Any) -> bool:
    return isinstance(notes, dict) and "parents" in notes

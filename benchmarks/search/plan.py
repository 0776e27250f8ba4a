"""What is measured and in which order, and what need not be: decided by the rows there are, so any call can go on.

Pass A begins with the untouched model and the single settings, because a recipe with a setting that fails is not tried
(a search closes it, too); everything else comes in an order drawn from the subject's name. Pass B times what pass A
found to work once more, in another order, at another time and in other processes, and so does each further pass: one
process more, where a single one is too noisy to judge by. What a noisy machine spoiled, by
ending it or by widening its interval, is tried again at the end of its pass.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from benchmarks.search.rows import JUDGES, SEEN, Row, inferred, last_attempts
from hybrid_core.records import Outcome, Recipe, Step

MOST_ATTEMPTS = 3
# What a noisy machine may be to blame for; a deadline passes early where others use most of the processor.
SPOILED = (Outcome.UNSTABLE, Outcome.TIMEOUT)
# Half the width of an interval of log speed; on a quiet machine it is 0.01 to 0.04.
WIDEST = 0.06


@dataclass(frozen=True)
class Plan:
    """The recipes of a subject, the untouched model first, and which single steps it cannot have."""

    name: str
    recipes: tuple[Recipe, ...]
    unsupported: Mapping[Step, str]
    judges: int = 1

    @property
    def judging(self) -> str:
        """The names of the passes that judge."""
        return JUDGES[: self.judges]

    def refused(self) -> list[Row]:
        """A row for each recipe that needs no process to be refused."""
        rows = []
        for recipe in self.recipes:
            step = next((step for step in recipe.steps if step in self.unsupported), None)
            if step is not None:
                key = Recipe((step,)).key
                rows.append(inferred(recipe.key, key, str(Outcome.UNSUPPORTED), self.unsupported[step]))
        return rows

    def valid(self) -> list[Recipe]:
        """What is left."""
        return [recipe for recipe in self.recipes if not set(recipe.steps) & set(self.unsupported)]

    def ordered(self, which: str) -> list[Recipe]:
        """The valid recipes in the order of that pass."""
        drawn = self.valid()
        random.Random(f"{self.name}/{which}").shuffle(drawn)
        first = 1 if which == SEEN else 0
        return sorted(drawn, key=lambda recipe: min(len(recipe.steps), 1 + first))

    def next_row(self, rows: Sequence[Row]) -> Row | None:
        """The names of the next attempt, or a whole row where none is needed; None when the table is complete."""
        return next(self._missing(rows), None)

    def _missing(self, rows: Sequence[Row]) -> Iterator[Row]:
        seen = last_attempts(rows, SEEN)
        failed = failed_singles(seen)
        for place, recipe in enumerate(self.ordered(SEEN)):
            if recipe.key not in seen:
                yield without_trial(recipe, failed) or names_of(recipe, SEEN, 0, place)
        yield from self._again(SEEN, seen)
        for which in self.judging:
            timed = last_attempts(rows, which)
            for place, recipe in enumerate(self.ordered(which)):
                if recipe.key not in timed and seen[recipe.key]["outcome"] == Outcome.OK:
                    yield names_of(recipe, which, 0, place)
            yield from self._again(which, timed)

    def _again(self, which: str, last: Mapping[str, Row]) -> Iterator[Row]:
        spoiled = [recipe for recipe in self.ordered(which) if is_spoiled(last.get(recipe.key))]
        for attempt in range(1, MOST_ATTEMPTS):
            for place, recipe in enumerate(spoiled):
                if last[recipe.key]["attempt"] == attempt - 1:
                    yield names_of(recipe, which, attempt, (attempt * len(self.recipes)) + place)

    def left(self, rows: Sequence[Row]) -> int:
        """About how many trials are missing; what will fail or be spoiled is not known before."""
        seen = last_attempts(rows, SEEN)
        failed = failed_singles(seen)
        unseen = [r for r in self.valid() if r.key not in seen and without_trial(r, failed) is None]
        works = sum(row["outcome"] == Outcome.OK for row in seen.values())
        timed = sum(len(last_attempts(rows, which)) for which in self.judging)
        return (1 + self.judges) * len(unseen) + self.judges * works - timed


def failed_singles(last: Mapping[str, Row]) -> dict[Step, Row]:
    """Single steps that were tried and failed in a way that no noise explains."""
    found = {}
    for key, row in last.items():
        steps = Recipe.from_key(key).steps
        if len(steps) == 1 and row["outcome"] not in (Outcome.OK, *SPOILED):
            found[steps[0]] = row
    return found


def without_trial(recipe: Recipe, failed: Mapping[Step, Row]) -> Row | None:
    """The row of a recipe that contains a failed single step; it costs a search what the step cost."""
    step = next((step for step in recipe.steps if step in failed), None)
    if step is None or len(recipe.steps) == 1:
        return None
    row = failed[step]
    return inferred(recipe.key, Recipe((step,)).key, row["outcome"], row["reason"], row["seconds"])


def is_spoiled(row: Row | None) -> bool:
    """Whether the machine and not the recipe kept it from being measured, or from being measured well."""
    if row is None or row["outcome"] in SPOILED:
        return row is not None
    low, high = row.get("speed_low"), row.get("speed_high")
    return bool(low and high) and math.log(high / low) / 2 > WIDEST


def names_of(recipe: Recipe, which: str, attempt: int, place: int) -> Row:
    """The columns that say which attempt a row is."""
    return {"recipe": recipe.key, "pass": which, "attempt": attempt, "place": place}

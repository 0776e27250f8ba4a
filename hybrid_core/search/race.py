"""Several fresh processes for what decides: the untouched model against itself, and the finalists.

The best of many noisy scores is too good to be true, and one process more or less repeats itself, so each finalist and
the untouched model are measured in several processes in turn: round 1 of all, round 2 of all. A machine that changes
during the race then changes for all of them. What is left of the budget goes where another round may still decide.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hybrid_core.measurement.rounds import combine_rounds
from hybrid_core.measurement.stop_rule import most_useful_round
from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Trial
from hybrid_core.search import stopping
from hybrid_core.search.bench import ROUNDS, Bench
from hybrid_core.search.noise import moment_of
from hybrid_core.search.result import Stop
from hybrid_core.search.speeds import is_positive

MOST_ROUNDS = 5
# What A/A measurements may take of the budget, the first one aside.
AGAINST_ITSELF_SHARE = 0.15


def measure_untouched(bench: Bench, should_stop: Callable[[], bool]) -> Trial:
    """The A/A trial: several processes where the day's noise of this device is not known and the budget allows it.

    A process that was disturbed too much ends nothing as long as another one is measured.
    """
    noise, rounds = bench.book.noise, list[Trial]()
    wanted = 1 if noise.is_well_known or not bench.in_processes else ROUNDS
    while True:
        number = len(rounds) + 1
        sentence = "measuring the untouched model against itself"
        rounds.append(bench.run_round(Recipe(), Purpose.BASELINE, number, sentence))
        spent_s = sum(trial.seconds for trial in rounds)
        too_long = spent_s * (number + 1) / number > AGAINST_ITSELF_SHARE * bench.config.budget_s
        has_failed = rounds[-1].outcome not in (Outcome.OK, Outcome.UNSTABLE)
        if number >= wanted or too_long or has_failed or should_stop():
            usable = [trial for trial in rounds if trial.outcome is not Outcome.UNSTABLE]
            return bench.conclude(Recipe(), Purpose.BASELINE, usable or rounds)


def race(bench: Bench, finalists: Sequence[Recipe], should_stop: Callable[[], bool]) -> Stop | None:
    """Measure the finalists and the untouched model again; a Stop when somebody cancelled or the device is gone."""
    return _Race(bench, finalists, should_stop).run()


class _Race:
    def __init__(self, bench: Bench, finalists: Sequence[Recipe], should_stop: Callable[[], bool]) -> None:
        self.bench, self.finalists, self.should_stop = bench, finalists, should_stop
        self.taken: dict[Recipe, list[Trial]] = {}
        self.noise = bench.book.noise

    def run(self) -> Stop | None:
        """All rounds, then the extra ones, then one trial of each; the untouched model's is told first."""
        entrants, bench = self._entrants(), self.bench
        for number in range(1, bench.rounds + 1):
            standing = [recipe for recipe in entrants if self._stands(recipe, number)]
            bench.queue = [*standing, *(r for r in standing for _ in range(bench.rounds - number))]
            for recipe in standing:
                bench.queue.pop(0)
                stop = self._measure(recipe, number)
                if stop is not None:
                    return stop
        bench.queue = []
        while (closest := self._closest()) is not None:
            stop = self._measure(closest, len(self.taken[closest]) + 1)
            if stop is not None:
                return stop
        for recipe in sorted(self.taken, key=lambda recipe: not recipe.is_baseline):
            bench.conclude(recipe, Purpose.FINAL, self.taken[recipe])
        return None

    def _entrants(self) -> list[Recipe]:
        """The best, the untouched model and the others, in as many rounds as fit; two rounds of fewer before one."""
        bench, order = self.bench, [*self.finalists[:1], Recipe(), *self.finalists[1:]]
        left_s = bench.budget.remaining_s
        bench.rounds = bench.affordable_rounds(order, left_s)
        if bench.rounds > 1 or not bench.in_processes:
            return order
        many = next((n for n in range(len(order), 0, -1) if bench.affordable_rounds(order[:n], left_s) > 1), 0)
        if many < min(2, len(order)):
            return order
        bench.rounds = bench.affordable_rounds(order[:many], left_s)
        for recipe in order[many:]:
            self._leave_out(recipe, " in more than one process")
        return order[:many]

    def _stands(self, recipe: Recipe, number: int) -> bool:
        taken = self.taken.get(recipe, [])
        return number == 1 or (len(taken) == number - 1 and taken[-1].is_ok)

    def _measure(self, recipe: Recipe, number: int) -> Stop | None:
        bench = self.bench
        if self.should_stop():
            return stopping.cancelled()
        # The first may start with less than it needs: a slow last candidate must not cost the whole result.
        needed_s = 0.0 if not self.taken and self.finalists else bench.expected_round_s([recipe], bench.rounds)
        if bench.budget.remaining_s <= needed_s:
            if number == 1:
                self._leave_out(recipe)
            return None
        which = f"process {number} of {max(number, bench.rounds)}" if bench.in_processes else "once more"
        trial = bench.run_round(recipe, Purpose.FINAL, number, f"racing the finalists again, {which}")
        self.taken.setdefault(recipe, []).append(trial)
        self.noise.hear(self.taken[recipe])
        return stopping.broken_off(trial)

    def _leave_out(self, recipe: Recipe, how: str = "") -> None:
        self.bench.skip(f"final:{recipe.key}", f"no time left to race {recipe.key} again{how} in the final")

    def _closest(self) -> Recipe | None:
        """The finalist of which another round would tell most; None when nothing is open, or none is left or fits.

        The untouched model takes part as what it is, 1.0: it is as good a winner as any.
        """
        bench, found = self.bench, self._combined()
        index = most_useful_round([*found.values(), Estimate.exact(1.0)]) if bench.in_processes else None
        if index is None or index == len(found):
            return None
        recipe = list(found)[index]
        fits = bench.expected_round_s([recipe], bench.rounds) < bench.budget.remaining_s
        return recipe if fits and len(self.taken[recipe]) < MOST_ROUNDS else None

    def _combined(self) -> dict[Recipe, Estimate]:
        """The speed of every finalist that stands, over its rounds so far."""
        found = {}
        for recipe, trials in self.taken.items():
            speeds = [trial.measurement.speed_improvement for trial in trials if trial.measurement is not None]
            if not recipe.is_baseline and all(trial.is_ok for trial in trials) and all(map(is_positive, speeds)):
                known = self.noise.between(recipe, len(speeds))
                found[recipe] = combine_rounds(speeds, known, moment_of(recipe))
        return found

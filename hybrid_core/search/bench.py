"""Where the search runs its trials: it keeps time and costs, refuses what does not fit, and tells what happens.

The loop decides *what* to measure; everything that one trial needs around it (limits, events, bookkeeping, learning its
cost) is done here in one place, so that no trial can be run without being told and counted.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

from hybrid_core.config import RunConfig
from hybrid_core.fitness import verdicts_of
from hybrid_core.records import Outcome, Purpose, Recipe, Trial, to_json, trial_name
from hybrid_core.search.account import Account
from hybrid_core.search.book import TrialBook
from hybrid_core.search.costs import Budget, CostModel, limits_for, quality_limits
from hybrid_core.search.final import choose_finalists
from hybrid_core.search.hints import KnownConflict, Surveyed
from hybrid_core.search.measuring import Emit, Measure
from hybrid_core.search.merging import join_rounds
from hybrid_core.search.noise import Noise
from hybrid_core.search.space import Space

# The untouched model gets at least this long: without it there is no run at all.
_LEAST_BASELINE_S = 60.0
# The single settings may use this share of the budget before pairs of the good ones have their turn.
OPENING_SHARE = 0.5
# Each finalist is measured in this many processes, or in two where those would take more of the budget than its share.
ROUNDS = 3
RACE_SHARE = 0.5
FINAL_PATIENCE = 2.0


class Bench:
    """Runs trials within the budget and reports each of them."""

    def __init__(
        self,
        config: RunConfig,
        space: Space,
        measure: Measure,
        emit: Emit,
        run_id: str = "",
        clock: Callable[[], float] = time.monotonic,
        noise: Noise | None = None,
        account: Account | None = None,
        in_processes: bool = True,
    ) -> None:
        """`in_processes` says that every call of `measure` is a fresh process, so that calling again tells more."""
        self.config, self.options, self.space = config, config.options, space
        self._measure, self.emit, self._run_id, self._clock = measure, emit, run_id, clock
        self.budget = Budget(config.budget_s, clock)
        self.costs = CostModel(space)
        self.book = TrialBook(config.options, noise)
        self.account, self.in_processes = account or Account(), in_processes
        self.rounds, self.measured = ROUNDS if in_processes else 1, 0
        self.iteration = 0
        self.queue: list[Recipe] = []
        self._most_steps = len(space.settings) if config.options.enable_ensemble_optimization else 1
        self._leader: Recipe | None = None
        self._skipped: set[str] = set()
        self._answered = 0

    def is_open(self, recipe: Recipe) -> bool:
        """True when the recipe was not measured in this run and is not known to fail."""
        return (
            0 < len(recipe.steps) <= self._most_steps
            and recipe.key not in self.book.search
            and not self.book.is_blocked(recipe)
        )

    def fits(self, recipe: Recipe) -> bool:
        """True when measuring the recipe leaves enough of the budget for the final race."""
        return self.costs.expected_s(recipe) + self.reserve_s(recipe) <= self.budget.remaining_s

    def open_recipes(self) -> list[Recipe]:
        """Every legal recipe that may still be tried, cost aside."""
        return [recipe for recipe in self.space.recipes if self.is_open(recipe)]

    def reserve_s(self, candidate: Recipe) -> float:
        """Seconds to keep for the final race if this candidate enters it.

        The candidate alone while nothing else could enter, else also the leader and the untouched model; in as many
        processes as leave the search its share.
        """
        entrants = {candidate.key: candidate}
        if self._leader is not None:
            entrants |= {self._leader.key: self._leader, Recipe().key: Recipe()}
        recipes = list(entrants.values())
        rounds = self.affordable_rounds(recipes, RACE_SHARE * self.config.budget_s)
        return rounds * self.expected_round_s(recipes, rounds)

    def expected_round_s(self, recipes: Sequence[Recipe], rounds: int) -> float:
        """Expected seconds of measuring each of the recipes in one of `rounds` processes of the final race."""
        search_limits = limits_for(self.config.budget_s, Purpose.SEARCH, 0.0)
        return sum(self.costs.expected_round_s(recipe, search_limits, rounds) for recipe in recipes)

    def affordable_rounds(self, recipes: Sequence[Recipe], available_s: float) -> int:
        """In how many processes each of the recipes can be measured in this time; at least one."""
        wanted = (ROUNDS, 2) if self.in_processes else ()
        return next((n for n in wanted if n * self.expected_round_s(recipes, n) <= available_s), 1)

    def skip(self, key: str, reason: str) -> None:
        """Say once why something is not tried."""
        if key not in self._skipped:
            self._skipped.add(key)
            self.emit("skipped", {"key": key, "reason": reason})

    def skip_for_cost(self, recipe: Recipe) -> None:
        """Say that a recipe does not fit into what is left of the budget."""
        self.skip(
            recipe.key,
            f"expected to take {self.costs.expected_s(recipe):.0f} s, but of the {self.budget.remaining_s:.0f} s left "
            f"{self.reserve_s(recipe):.0f} s are kept for the final race; allow a larger budget to try it",
        )

    def run(self, recipe: Recipe, sentence: str) -> Trial:
        """Measure one recipe of the search in one process and tell everything about it."""
        expected_s = self.costs.expected_s(recipe)
        self.tell_progress(Purpose.SEARCH.value, sentence, expected_s)
        self._tell_start("trial_started", recipe, Purpose.SEARCH, expected_s)
        trial = self.book.noise.widened(self._timed(recipe, Purpose.SEARCH))
        self.costs.observe(trial)
        self._record(trial)
        return trial

    def run_round(self, recipe: Recipe, purpose: Purpose, number: int, sentence: str) -> Trial:
        """Measure one recipe in one of the processes that `conclude` makes a trial of."""
        is_final = purpose is Purpose.FINAL
        expected_s = self.expected_round_s([recipe], self.rounds) if is_final else self.costs.expected_s(recipe)
        self.tell_progress(purpose.value, sentence, expected_s)
        if number == 1:
            self._tell_start("trial_started", recipe, purpose, expected_s)
        self._tell_start("round_started", recipe, purpose, expected_s, number)
        trial = self._timed(recipe, purpose, number)
        if not is_final:
            self.costs.observe(trial)
        self.emit("round_finished", {"trial": to_json(trial), "round": number})
        return trial

    def conclude(self, recipe: Recipe, purpose: Purpose, rounds: Sequence[Trial]) -> Trial:
        """Make one trial of all rounds of a recipe and tell it; what is known of the device counts too."""
        trial = join_rounds(trial_name(self._run_id, purpose, recipe), rounds, self.book.noise)
        self._record(trial)
        return trial

    def _timed(self, recipe: Recipe, purpose: Purpose, number: int = 0) -> Trial:
        """Let it be measured, charge the budget and keep the account."""
        available_s = self._available_s(recipe, purpose)
        limits = limits_for(self.config.budget_s, purpose, available_s, self.rounds)
        bound = self.options.min_accuracy_preservation
        limits = quality_limits(limits, purpose, bound, self.book.quality_rows(recipe))
        started_s = self._clock()
        trial = self._measure(recipe, purpose, limits, number)
        self.budget.charge(trial.seconds, self._clock() - started_s)
        self.account.add(trial)
        self.measured += 1
        return trial

    def _tell_start(self, kind: str, recipe: Recipe, purpose: Purpose, expected_s: float, number: int = 0) -> None:
        data = {
            "trial_id": trial_name(self._run_id, purpose, recipe, number),
            "recipe": to_json(recipe),
            "key": recipe.key,
            "purpose": str(purpose),
            "iteration": self.iteration,
            "expected_s": expected_s,
        }
        self.emit(kind, {**data, "round": number, "rounds": self.rounds} if number else data)

    def rule_out(self, conflict: KnownConflict) -> None:
        """Do not try what contains these steps, and say why where the space has it."""
        if conflict.recipe.key in self.space.by_key:
            self.book.rule_out(conflict.recipe, conflict.sentence)
            self.skip(conflict.recipe.key, conflict.sentence)

    def opening_is_enough(self) -> bool:
        """True when half the budget went into single settings and two good ones wait to be combined."""
        used = self.budget.elapsed_s >= OPENING_SHARE * self.budget.limit_s
        return used and self._most_steps > 1 and len(self.book.good_singles()) > 1

    def skip_unmeasured_singles(self, why: str) -> None:
        """Say of every single setting that was never reached why it was not."""
        for recipe in self.space.singles:
            if recipe.key not in self.book.search and not self.book.is_blocked(recipe):
                self.skip(recipe.key, f"not measured: {why}")

    def take_answers(self, ask: Callable[[], Surveyed]) -> None:
        """Ask, charge the seconds, and write down as trials what the model cannot have."""
        started_s = self._clock()
        found = ask()
        self.budget.charge(found.seconds, self._clock() - started_s)
        self.account.add_asking(found.seconds)
        self.emit("survey", found.to_event())
        share_s = found.seconds / max(1, found.answered)
        for step, reason in found.unsupported.items():
            self._record_unsupported(Recipe((step,)), reason, share_s)

    def _record_unsupported(self, recipe: Recipe, reason: str, seconds: float) -> None:
        trial = Trial(
            trial_id=trial_name(self._run_id, Purpose.SEARCH, recipe),
            run_id=self._run_id,
            recipe=recipe,
            purpose=Purpose.SEARCH,
            outcome=Outcome.UNSUPPORTED,
            reason=reason,
            stage="survey",
            seconds=seconds,
        )
        self._answered += 1
        self._record(trial)

    def tell_progress(self, stage: str, sentence: str, current_s: float = 0.0) -> None:
        """Say where the run stands and at most how long it still takes."""
        done = self.measured + self._answered
        ahead = len(self.queue) + (1 if stage != "done" else 0)
        finals = self._finals_ahead() if stage in ("baseline", "search") else 0
        best_key, best = self.book.best()
        measured = bool(self.book.search)
        self.emit(
            "progress",
            {
                "stage": stage,
                "iteration": self.iteration,
                "done": done,
                "planned": done + ahead + finals,
                "elapsed_s": self.budget.elapsed_s,
                "remaining_s": self._remaining_s(stage, current_s),
                "best_key": best_key if measured else None,
                "best_fitness": best.value if measured else None,
                "sentence": sentence,
            },
        )

    def finalists(self) -> list[Recipe]:
        """Who would enter the final race now, best first."""
        return choose_finalists(list(self.book.search.values()), self.options, self.book.noise_floors)

    def _record(self, trial: Trial) -> None:
        blocked = self.book.add(trial)
        reason = self.book.why_not(trial)
        fitness = self.book.fitness(trial)
        verdicts = verdicts_of(trial.measurement, self.book.noise_floors) if trial.measurement else {}
        self.emit(
            "trial_finished",
            {
                "trial": to_json(trial),
                "fitness": to_json(fitness),
                "verdict": to_json(verdicts.get("speed")),
                "verdicts": to_json(verdicts),
                "infeasible_reason": reason,
                "iteration": self.iteration,
            },
        )
        if blocked is not None and trial.stage != "survey":
            self._say_blocked(trial.recipe, blocked)
        if trial.purpose is not Purpose.FINAL:
            self._leader = next(iter(self.finalists()), None)

    def _say_blocked(self, recipe: Recipe, reason: str) -> None:
        steps = set(recipe.steps)
        others = [r for r in self.space.recipes if steps < set(r.steps) and r.key not in self.book.search]
        if others:
            many = "the other recipe that contains it is" if len(others) == 1 else f"{len(others)} recipes with it are"
            self.skip(recipe.key, f"{reason.rstrip('.')}; {many} not tried in this run")

    def _available_s(self, recipe: Recipe, purpose: Purpose) -> float:
        if purpose is Purpose.BASELINE:
            return max(_LEAST_BASELINE_S, self.budget.remaining_s)
        if purpose is Purpose.FINAL:
            # A slow moment near the end of the budget must not condemn a recipe that was measured well before.
            return max(self.budget.remaining_s, FINAL_PATIENCE * self.expected_round_s([recipe], self.rounds))
        return self.budget.remaining_s - self.reserve_s(recipe)

    def _finals_ahead(self) -> int:
        return self.rounds * (1 + (len(self.finalists()) or 1))

    def _remaining_s(self, stage: str, current_s: float) -> float:
        """An upper bound while searching (more rounds may follow), the expected rest in the final race."""
        if stage == "done":
            return 0.0
        is_final = stage == Purpose.FINAL
        if is_final:
            return current_s + self.expected_round_s(self.queue, self.rounds)
        rest = current_s + sum(self.costs.expected_s(recipe) for recipe in self.queue)
        rounds_left = self.options.max_iterations - self.iteration if self.options.enable_candidate_selection else 0
        ahead = rounds_left * self.options.num_candidates + self._finals_ahead()
        rest += ahead * self.costs.expected_s(Recipe())
        return min(self.budget.remaining_s, rest)

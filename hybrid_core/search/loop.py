"""The search, read from top to bottom: baseline, survey, rounds of proposals, final race.

Who proposes is a plan: by default a searcher that is asked for one recipe at a time, knowing all that was measured
before; with the method "selection" the stages of `staged.py`. All randomness comes from the run's seed and all time
from the clock and the trials' own seconds, so the same answers give the same sequence: a run that continues after a
crash replays its finished trials and goes on. The loop knows neither processes nor databases: `measure` and `emit` are
given to it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.config import RunConfig
from hybrid_core.fitness import baseline_fitness
from hybrid_core.records import Recipe, to_json
from hybrid_core.search import stopping
from hybrid_core.search.account import Account
from hybrid_core.search.asking import Asking
from hybrid_core.search.bench import Bench
from hybrid_core.search.final import Crowned, crown, detectable_gain
from hybrid_core.search.hints import KnownConflict, Survey
from hybrid_core.search.measuring import Emit, Measure
from hybrid_core.search.noise import Noise
from hybrid_core.search.race import measure_untouched, race
from hybrid_core.search.result import SearchResult, Stop
from hybrid_core.search.rounds import Plan, Round
from hybrid_core.search.space import Space
from hybrid_core.search.staged import Staged
from hybrid_core.search.starting import Beginning
from hybrid_core.search.surveying import survey as ask_first
from hybrid_core.synergy import synergies

# The search method that goes through stages of its own instead of asking a searcher.
STAGED = "selection"


def run_search(
    config: RunConfig,
    space: Space,
    measure: Measure,
    emit: Emit,
    *,
    history: Sequence[HistoryRow] = (),
    run_id: str = "",
    clock: Callable[[], float] = time.monotonic,
    should_stop: Callable[[], bool] = lambda: False,
    family: str = "",
    survey: Survey | None = None,
    conflicts: Sequence[KnownConflict] = (),
    noise: Noise | None = None,
    start_s: float = 0.0,
    in_processes: bool = True,
) -> SearchResult:
    """Search for the best recipe within `config.budget_s` and tell everything through `emit(kind, data)`.

    `measure` returns a trial for every recipe, failed or not; what it raises is not caught. `run_id` only names the
    trials in "trial_started". `history` rows of the same model `family` give the first proposals, without any the
    original document's list for it does; rows of other families teach the searcher. `survey` says which settings the
    model cannot have, `conflicts` which steps are known to fail together: neither is tried. `noise` is what the device
    showed earlier today, `start_s` what the run used before its search. Without `in_processes` everything is measured
    in one process, and measuring again would tell nothing about another.
    """
    bench = Bench(config, space, measure, emit, run_id, clock, noise, Account(start_s), in_processes)
    search = _Search(bench, history, should_stop, family)
    stop = search.measure_untouched() or search.heed(conflicts, survey) or search.explore()
    result = search.conclude(stop)
    emit("result", result.to_event())
    return result


class _Search:
    def __init__(
        self, bench: Bench, history: Sequence[HistoryRow], should_stop: Callable[[], bool], family: str
    ) -> None:
        self.bench, self.history, self.should_stop, self.family = bench, history, should_stop, family
        self.config, self.options, self.space = bench.config, bench.options, bench.space
        self.rng = random.Random(bench.config.seed)
        self.plan: Plan | None = None

    def measure_untouched(self) -> Stop | None:
        """Measure the empty recipe against the untouched model: the A/A noise floor of everything that follows."""
        for step, reason in {**self.space.unavailable, **self.space.left_out}.items():
            self.bench.skip(step, reason)
        if self.should_stop():
            return stopping.cancelled()
        trial = measure_untouched(self.bench, self.should_stop)
        broken = stopping.broken_off(trial)
        why_not = self.bench.book.why_not(trial)
        if broken is not None or why_not is None:
            return broken
        return Stop("failed", f"the untouched model could not be measured: {why_not}")

    def heed(self, conflicts: Sequence[KnownConflict], survey: Survey | None) -> Stop | None:
        """Rule out what is known to fail together and, as far as it can be asked, what the model cannot have."""
        for conflict in conflicts:
            self.bench.rule_out(conflict)
        if self.should_stop():
            return stopping.cancelled()
        if survey is not None:
            ask_first(self.bench, survey)
        return None

    def explore(self) -> Stop:
        """Measure round after round until a rule says stop."""
        self.plan = plan = self.make_plan()
        for round_ in plan.rounds():
            before = self.bench.book.best()[1].value
            stop = self.measure_round(round_)
            if stop is None and round_.may_converge:
                after = self.bench.book.best()[1].value
                stop = stopping.converged(before, after, self.bench.iteration, self.options)
            stop = stop or plan.settled() or self.stop_between_rounds()
            if stop is not None:
                return stop
        return stopping.one_round()

    def make_plan(self) -> Plan:
        """Who decides what is measured: a searcher, or the stages that the method "selection" stands for."""
        if self.options.search_method == STAGED or not self.options.enable_candidate_selection:
            return Staged(self.bench, Beginning(self.bench, self.history, self.family), self.rng)
        return Asking(self.bench, self.history, self.rng, self.family)

    def measure_round(self, round_: Round) -> Stop | None:
        """Measure the round's recipes in order, as far as the budget allows."""
        bench = self.bench
        for recipe in self.in_turn(round_):
            if self.should_stop():
                return stopping.cancelled()
            if not bench.is_open(recipe):
                continue
            if not bench.fits(recipe):
                bench.skip_for_cost(recipe)
                continue
            stop = stopping.broken_off(bench.run(recipe, round_.sentence))
            if stop is not None:
                return stop
            if round_.may_pause and bench.opening_is_enough():
                break
        bench.queue = []
        return None

    def in_turn(self, round_: Round) -> Iterator[Recipe]:
        """The round's recipes; what is known of the rest stands in the bench's queue, for the plan that is told."""
        if not isinstance(round_.recipes, Sequence):
            yield from round_.recipes
            return
        self.bench.queue = list(round_.recipes)
        while self.bench.queue:
            yield self.bench.queue.pop(0)

    def stop_between_rounds(self) -> Stop | None:
        """The iteration limit, or nothing left that may be tried and fits."""
        if not self.options.enable_candidate_selection:
            return None
        left = self.bench.open_recipes()
        if not any(self.bench.fits(recipe) for recipe in left):
            return stopping.nothing_left(len(left), self.config.budget_s, len(self.bench.book.search) - 1)
        return stopping.at_iteration_limit(self.bench.iteration, self.options)

    def conclude(self, stop: Stop) -> SearchResult:
        """Race the finalists and crown the winner; a search that was broken off ends without one."""
        finalists = [] if stop.is_break else self.bench.finalists()
        if not stop.is_break:
            stop = race(self.bench, finalists, self.should_stop) or stop
        crowned = self.crowned(stop, finalists)
        book = self.bench.book
        self.bench.queue = []
        self.bench.skip_unmeasured_singles(stop.sentence)
        self.tell_synergies()
        self.bench.tell_progress("done", crowned.sentence)
        return SearchResult(
            winner=crowned.winner,
            sentence=crowned.sentence,
            stop_reason=stop.sentence,
            stopped_by=stop.kind,
            iterations=self.bench.iteration,
            noise_floor=book.noise_floors["speed"],
            baseline_fitness=baseline_fitness(self.options),
            fitness=crowned.fitness,
            winner_trial=crowned.trial,
            final_trials=tuple(book.finals.values()),
            front_keys=book.front(),
            verdicts=crowned.verdicts,
            counts=book.counts(),
            recommended_keys=tuple(recipe.key for recipe in (self.plan.recommended if self.plan else ())),
            elapsed_s=self.bench.budget.elapsed_s,
            failed=stop.kind == "failed",
            noise=book.noise.to_event(),
            detectable=detectable_gain(list(book.finals.values())),
            cost=self.bench.account.to_event(self.bench.budget.elapsed_s),
        )

    def tell_synergies(self) -> None:
        """Say what each measured ensemble gained over the product of its parts."""
        book = self.bench.book
        # The parts were measured in one process each, whatever the race had.
        floors = book.noise_floors | {"speed": book.noise.floor() or book.noise_floors["speed"]}
        found = synergies([*book.search.values(), *book.finals.values()], floors)
        if found:
            self.bench.emit("synergy", {"synergies": to_json(found)})

    def crowned(self, stop: Stop, finalists: Sequence[Recipe]) -> Crowned:
        """The winner by the numbers of the final race; without a race nobody is crowned, and the sentence says so."""
        finals = list(self.bench.book.finals.values())
        if stop.is_break:
            return Crowned(Recipe(), stopping.sentence_of_break(stop, self.bench.book.best()))
        if finalists and all(trial.recipe.is_baseline for trial in finals):
            return Crowned(Recipe(), stopping.no_time_for_race(finalists[0], self.config.budget_s))
        return crown(finals, self.options, self.bench.book.noise_floors)

"""When a search ends: one rule per function, each answering with the sentence a person reads, or None to go on."""

from __future__ import annotations

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import BASELINE_KEY, Estimate, Outcome, Recipe, Trial
from hybrid_core.search.result import CANCELLED, Stop

# So many trials without gain before a searcher counts as settled.
SETTLED_AFTER = 10


def at_iteration_limit(iteration: int, options: HybridOptimizationConfig) -> Stop | None:
    """All iterations that were asked for have run."""
    if iteration < options.max_iterations:
        return None
    return Stop("max_iterations", f"max_iterations={options.max_iterations} reached")


def converged(before: float, after: float, iteration: int, options: HybridOptimizationConfig) -> Stop | None:
    """The best fitness grew by less than `convergence_threshold` of itself in this iteration."""
    growth = (after - before) / abs(before) if before else 0.0
    if growth >= options.convergence_threshold:
        return None
    return Stop(
        "converged",
        f"converged: iteration {iteration} raised the best fitness from {before:.3f} to {after:.3f} ({growth:.2%}), "
        f"less than convergence_threshold {options.convergence_threshold:.2%}",
    )


def settled(
    before: float, after: float, expected: float | None, noise_floor: float, options: HybridOptimizationConfig
) -> Stop | None:
    """The last `SETTLED_AFTER` trials gained little, and no open recipe promises more than can be told apart.

    `expected` is the largest expected gain in log fitness; None where the searcher cannot say, then only gains count.
    """
    growth = (after - before) / abs(before) if before else 0.0
    bound = max(options.convergence_threshold, noise_floor)
    if growth >= options.convergence_threshold or (expected is not None and expected >= bound):
        return None
    rest = (
        "" if expected is None else f", and no recipe that is left is expected to raise it by more than {expected:.2%}"
    )
    return Stop(
        "converged",
        f"converged: the last {SETTLED_AFTER} trials raised the best fitness from {before:.3f} to {after:.3f} "
        f"({growth:.2%}), less than convergence_threshold {options.convergence_threshold:.2%}{rest}",
    )


def nothing_left(unmeasured: int, budget_s: float, measured: int) -> Stop:
    """No recipe can be proposed any more: all were measured, or those left do not fit into the budget."""
    if unmeasured:
        return Stop(
            "budget",
            f"the budget of {budget_s:g} s has no room for another candidate before the final race; {unmeasured} "
            f"legal recipe{'s were' if unmeasured > 1 else ' was'} not measured",
        )
    return Stop("exhausted", f"every recipe that can be tried was tried ({measured} measured)")


def one_round() -> Stop:
    """Candidate selection is switched off, so there is no second round."""
    return Stop("one_round", "enable_candidate_selection is off: one round of candidates was measured")


def broken_off(trial: Trial) -> Stop | None:
    """The trial says that no other one can follow: somebody cancelled, or the device is gone."""
    if trial.outcome is Outcome.CANCELLED:
        return cancelled()
    if trial.outcome is Outcome.DEVICE_LOST:
        return Stop("failed", f"the device was lost while measuring {trial.recipe.key}: {trial.reason}")
    return None


def cancelled() -> Stop:
    """Somebody asked the run to stop."""
    return Stop(CANCELLED, CANCELLED)


def sentence_of_break(stop: Stop, best: tuple[str, Estimate]) -> str:
    """What a run that was broken off can say: its best so far, which nobody has measured a second time."""
    key, fitness = best
    if stop.kind != CANCELLED:
        return stop.sentence
    if key == BASELINE_KEY:
        return "cancelled before anything was found that beats the untouched model"
    return f"cancelled before the final race; best so far was {key} with fitness {fitness.value:.3f}, measured once"


def no_time_for_race(best: Recipe, budget_s: float) -> str:
    """Why a promising candidate is not a winner: its numbers were not confirmed."""
    return (
        f"the budget of {budget_s:g} s ended before {best.key}, the best so far, could be measured a second time; "
        "no winner is named from a single measurement: allow a larger budget"
    )

"""Successive halving of timing repeats: its schedule, its costs, and by simulation when it finds the best for less."""

import math
import random
from pathlib import Path

import pytest

from hybrid_core.errors import InvalidInput
from hybrid_core.search.searchers.halving import SMALLEST_SAVING, Rung, plan_halving, rungs_for, survivors

# Log speeds of the candidates, and of two timings of one of them.
SPREAD, NOISE = 0.05, 0.02


def race(plan_rungs, truth, draw):
    """Play the rungs: time everybody anew in each, keep the best; the winner and the number of repeats used."""
    left, used = list(truth), 0
    for rung, after in zip(plan_rungs, (*plan_rungs[1:], Rung(1, 0)), strict=True):
        assert len(left) == rung.candidates
        scores = {key: truth[key] + draw.gauss(0, NOISE / math.sqrt(rung.repeats)) for key in left}
        used += rung.candidates * rung.repeats
        left = survivors(scores, after)
    return left[0], used


def simulate(rungs, candidates, races=500):
    """Share of races that find the truly best, and the repeats of one race."""
    wins = 0
    for seed in range(races):
        draw = random.Random(seed)
        truth = {f"r{i}": draw.gauss(0, SPREAD) for i in range(candidates)}
        winner, used = race(rungs, truth, draw)
        wins += winner == max(truth, key=truth.__getitem__)
    return wins / races, used


def test_where_timing_dominates_the_best_is_found_nearly_as_often_in_a_fifth_of_the_time():
    plan = plan_halving(27, 27, compile_s=1.0, repeat_s=2.0)
    halved, used = simulate(plan.rungs, 27)
    in_full, all_repeats = simulate((Rung(27, 27),), 27)
    same_time, fewer = simulate((Rung(27, 4),), 27)
    assert plan.pays and plan.seconds == 27 * 1.0 + 2.0 * used
    assert used < all_repeats / 5 and used == fewer
    assert plan.seconds < plan.plain_seconds / 5
    assert halved > same_time + 0.02, "with as many repeats, halving beats sharing them out evenly"
    assert in_full > halved > in_full - 0.12, (halved, in_full)


def test_where_compiling_dominates_it_reports_that_nothing_is_saved():
    plan = plan_halving(27, 27, compile_s=100 * 27 * 1.0, repeat_s=1.0)
    assert not plan.pays and plan.saving < 0.01
    assert "everybody is timed in full" in plan.sentence


def test_fresh_processes_for_every_rung_are_paid_and_can_turn_a_saving_into_a_loss():
    alive = plan_halving(27, 27, compile_s=10.0, repeat_s=1.0)
    fresh = plan_halving(27, 27, compile_s=10.0, repeat_s=1.0, restart_s=60.0)
    assert alive.pays and not fresh.pays
    assert fresh.seconds == alive.seconds + (9 + 3 + 1) * 60.0 and fresh.saving < 0


def test_at_the_costs_of_a_short_run_halving_loses_and_the_page_says_by_how_much():
    """8 s for a process, its build and its check, and 3 s of timing, which is what a run of two minutes allows."""
    plan = plan_halving(27, 27, compile_s=8.0, repeat_s=3.0 / 27, restart_s=8.0)
    assert round(plan.saving, 2) == -0.12 and not plan.pays
    page = (Path(__file__).parents[4] / "docs/search.md").read_text()
    assert "12 % more" in page


def test_the_saving_falls_steadily_as_compiling_grows():
    savings = [plan_halving(9, 9, compile_s, 1.0).saving for compile_s in (0.0, 1.0, 5.0, 25.0, 500.0)]
    assert savings == sorted(savings, reverse=True)
    assert savings[0] > SMALLEST_SAVING > savings[-1] > 0


@pytest.mark.parametrize("eta", [2, 3, 4])
def test_rungs_divide_candidates_and_multiply_repeats(eta):
    for candidates in (1, 2, 5, 9, 27, 100):
        for repeats in (1, 2, 8, 27, 60):
            rungs = rungs_for(candidates, repeats, eta)
            assert rungs[0].candidates == candidates and rungs[-1].repeats == repeats
            assert all(rung.candidates >= 1 and rung.repeats >= 1 for rung in rungs)
            for before, after in zip(rungs, rungs[1:], strict=False):
                assert after.candidates == before.candidates // eta
                assert before.repeats == after.repeats // eta
            assert rungs[-1].candidates < eta or rungs[0].repeats < eta


def test_failed_candidates_do_not_survive_and_order_does_not_matter():
    scores = {"b": 1.0, "a": 1.0, "c": math.nan, "d": math.inf, "e": 2.0}
    assert survivors(scores, Rung(2, 1)) == ["e", "a"]
    assert survivors(dict(reversed(scores.items())), Rung(9, 1)) == ["e", "a", "b"]
    assert survivors({"c": math.nan}, Rung(1, 1)) == []


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((0, 3, 1.0, 1.0), "candidates=0"),
        ((3, 0, 1.0, 1.0), "repeats=0"),
        ((3, 3, -1.0, 1.0), "finite times"),
        ((3, 3, math.nan, 1.0), "finite times"),
        ((3, 3, 0.0, 0.0), "not all 0"),
        ((3, 3, 1.0, 1.0, 0.0, 1), "eta=1"),
    ],
)
def test_impossible_plans_are_refused_with_what_is_allowed(arguments, words):
    with pytest.raises(InvalidInput, match=words):
        plan_halving(*arguments)

"""The search on landscapes whose truth is known."""

import itertools
import math

import pytest

from hybrid_core.fitness import fitness_of
from hybrid_core.records import SELECTION_METHODS, Purpose, Trial, Verdict

KINDS = ("progress", "trial_started", "trial_finished")


def best_by_brute_force(planted, landscape, options):
    """The feasible recipe of the largest true fitness, from the planted effects alone."""

    def score(recipe):
        speed, memory, accuracy = landscape.truth(recipe)
        if accuracy < options.min_accuracy_preservation or speed < options.min_speed_improvement:
            return -math.inf
        w = options.objective_weights
        return w["speed"] * speed + w["memory"] * memory + w["accuracy"] * accuracy

    return max(planted.make_space(landscape.effects).recipes, key=score)


@pytest.mark.parametrize("seed", range(5))
def test_the_planted_best_recipe_wins(search, planted, seed):
    options = planted.plain_options(max_iterations=30, convergence_threshold=0.0)
    result, landscape, _ = search(planted.Landscape(seed=seed), budget_s=3000, seed=seed, options=options)
    assert result.winner.key == best_by_brute_force(planted, landscape, options).key
    assert result.improved and result.verdicts["speed"] is Verdict.BETTER


@pytest.mark.parametrize("method", [method for method in SELECTION_METHODS if method != "rl"])
def test_every_classical_method_finds_a_recipe_of_several_steps(search, planted, method):
    options = planted.plain_options(selection_strategy=method)
    result, _, told = search(budget_s=1500, options=options)
    assert len(result.winner.steps) >= 2
    assert {event["method"] for event in told.of("selection")} == {method}


def test_two_searches_of_one_seed_measure_the_same_sequence(search):
    first = search(budget_s=700, seed=3)
    second = search(budget_s=700, seed=3)
    assert first[1].calls == second[1].calls
    assert first[2].events == second[2].events


def test_another_seed_gives_another_sequence(search, planted):
    options = planted.plain_options(convergence_threshold=0.0)
    sequences = {tuple(search(budget_s=900, seed=seed, options=options)[1].calls) for seed in range(4)}
    assert len(sequences) > 1


def test_a_search_continued_from_stored_trials_makes_the_same_decisions(search, planted):
    _, first, _ = search(budget_s=300)
    stored = planted.Landscape()
    replay_clock = planted.Landscape()
    measured = stored.measure

    def answer_at_once(recipe, purpose, limits, round_number=0):
        replay_clock.rounds.append((purpose.value, recipe.key, round_number))
        return measured(recipe, purpose, limits, round_number)

    stored.measure = answer_at_once
    stored.clock = lambda: 0.0
    search(stored, budget_s=300)
    assert replay_clock.rounds == first.rounds


def test_no_recipe_is_measured_twice_except_in_the_final_race(search, planted):
    _, landscape, _ = search(budget_s=5000, options=planted.plain_options(convergence_threshold=0.0))
    assert len(landscape.calls) == len(set(landscape.calls))
    searched = [key for purpose, key in landscape.calls if purpose == "search"]
    finals = [key for purpose, key in landscape.calls if purpose == "final"]
    assert "baseline" not in searched
    assert set(finals) <= set(searched) | {"baseline"}


@pytest.mark.parametrize("budget_s", [15, 30, 45, 60, 90, 120, 200, 333, 600])
@pytest.mark.parametrize("overhead_s", [4.0, 9.0, 20.0])
def test_the_budget_is_exceeded_by_at_most_one_trial(search, planted, budget_s, overhead_s):
    landscape = planted.Landscape(overhead_s=overhead_s)
    result, _, told = search(landscape, budget_s=budget_s)
    longest = max(event["trial"]["seconds"] for event in told.of("trial_finished"))
    assert landscape.now - 100.0 <= budget_s + longest
    assert result.elapsed_s == pytest.approx(landscape.now - 100.0)


def test_a_small_budget_still_ends_in_a_raced_winner(search, planted):
    result, landscape, told = search(planted.Landscape(overhead_s=8.0), budget_s=120)
    assert result.improved
    assert ("final", result.winner.key) in landscape.calls and ("final", "baseline") in landscape.calls
    assert landscape.now - 100 <= 120
    assert any("compile" in event["key"] for event in told.of("skipped"))


def test_what_does_not_fit_is_said_once_with_figures(search, planted):
    _, landscape, told = search(planted.Landscape(overhead_s=8.0), budget_s=160)
    skipped = [event for event in told.of("skipped") if event["key"] == "kernel_fusion=compile"]
    assert len(skipped) == 1
    assert "expected to take 38 s" in skipped[0]["reason"] and "final race" in skipped[0]["reason"]
    assert ("search", "kernel_fusion=compile") not in landscape.calls


def test_expensive_singles_wait_for_the_pairs_of_cheap_ones(search):
    _, landscape, _ = search(budget_s=280)
    keys = [key for _, key in landscape.calls]
    assert keys[0] == "baseline"
    first_pair = next(i for i, key in enumerate(keys) if "+" in key)
    assert keys.index("kernel_fusion=compile") > first_pair
    assert keys.index("attention_fusion=sdpa") < first_pair


def test_the_first_iteration_measures_the_singles_whatever_num_candidates_is(search, planted):
    _, landscape, told = search(budget_s=2000, options=planted.plain_options(num_candidates=1, max_iterations=1))
    singles = {f"{n}={s}" for n, settings in planted.EFFECTS.items() for s in settings}
    assert {key for purpose, key in landscape.calls if purpose == "search"} == singles


def test_later_iterations_propose_at_most_num_candidates(search, planted):
    options = planted.plain_options(num_candidates=2, convergence_threshold=0.0)
    _, _, told = search(budget_s=3000, options=options)
    assert told.of("selection")
    assert all(len(event["proposals"]) <= 2 for event in told.of("selection"))


def test_stops_by_max_iterations_and_says_so(search, planted):
    options = planted.plain_options(max_iterations=3, convergence_threshold=0.0, num_candidates=2)
    result, _, _ = search(budget_s=5000, options=options)
    assert result.stopped_by == "max_iterations" and result.iterations == 3
    assert result.stop_reason == "max_iterations=3 reached"


def test_stops_by_convergence_and_says_so(search, planted):
    result, _, _ = search(budget_s=5000, options=planted.plain_options(convergence_threshold=0.9))
    assert result.stopped_by == "converged"
    assert "less than convergence_threshold 90.00%" in result.stop_reason


def test_stops_by_budget_and_says_so(search, planted):
    result, _, _ = search(budget_s=150, options=planted.plain_options(convergence_threshold=0.0))
    assert result.stopped_by == "budget"
    assert "the budget of 150 s" in result.stop_reason and "not measured" in result.stop_reason


def test_stops_when_everything_was_measured(search, planted):
    options = planted.plain_options(convergence_threshold=0.0, max_iterations=100)
    result, landscape, _ = search(budget_s=50_000, options=options)
    assert result.stopped_by == "exhausted"
    assert sum(purpose == "search" for purpose, _ in landscape.calls) == len(planted.make_space().recipes) - 1


def test_a_fast_but_inaccurate_candidate_never_wins(search, planted):
    result, landscape, told = search(budget_s=3000)
    assert ("search", "quantization=bfloat16") in landscape.calls
    assert "bfloat16" not in result.winner.key
    reasons = [e["infeasible_reason"] for e in told.of("trial_finished") if "bfloat16" in e["trial"]["recipe"].values()]
    assert reasons and all("accuracy preservation" in reason and "bound 0.98" in reason for reason in reasons)
    assert not any("bfloat16" in key for key in result.front_keys)


def test_a_smaller_but_slower_candidate_wins_only_when_the_bound_is_lowered(search, planted):
    effects = {"quantization": {"int8_dynamic": (0.8, 2.0, 0.999, 1.0)}}
    refused, _, told = search(planted.Landscape(effects=effects))
    assert refused.winner.is_baseline
    single = next(e for e in told.of("trial_finished") if e["trial"]["recipe"])
    assert "speed improvement" in single["infeasible_reason"] and "bound 1" in single["infeasible_reason"]
    allowed, _, _ = search(planted.Landscape(effects=effects), options=planted.plain_options(min_speed_improvement=0.7))
    assert allowed.winner.key == "quantization=int8_dynamic"
    assert allowed.verdicts == {"speed": Verdict.WORSE, "memory": Verdict.BETTER, "accuracy": Verdict.TIE}


@pytest.mark.parametrize("seed", range(8))
def test_settings_without_effect_leave_the_untouched_model_as_winner(search, planted, seed):
    effects = {n: {s: (1.0, 1.0, 1.0, 1.0) for s in settings} for n, settings in planted.EFFECTS.items()}
    result, _, told = search(planted.Landscape(effects=effects, seed=seed), budget_s=900, seed=seed)
    assert result.winner.is_baseline and not result.improved
    assert "the untouched model" in result.sentence
    assert result.winner_trial is not None and result.winner_trial.purpose is Purpose.FINAL
    assert all(event["verdict"] in ("tie", None) for event in told.of("trial_finished") if not event["trial"]["recipe"])


def test_a_tie_in_the_final_race_goes_to_fewer_steps(search, planted):
    effects = {"a": {"on": (1.30, 1.0, 1.0, 1.0)}, "b": {"on": (1.002, 1.0, 1.0, 1.0)}}
    result, landscape, _ = search(planted.Landscape(effects=effects, noise=0.0))
    assert ("final", "a=on+b=on") in landscape.calls
    assert result.winner.key == "a=on"
    assert "tied" in result.sentence and "fewer steps" in result.sentence


def test_the_winner_is_judged_by_the_final_race_alone(search, planted):
    effects = {"a": {"lucky": (1.5, 1.0, 1.0, 1.0)}, "b": {"steady": (1.2, 1.0, 1.0, 1.0)}}
    landscape = planted.Landscape(effects=effects, noise=0.0)
    honest = landscape._trial

    def fade(recipe, purpose):
        trial = honest(recipe, purpose)
        if purpose is Purpose.FINAL and "lucky" in recipe.key:
            return Trial(**{**trial.__dict__, "measurement": planted.make_measurement(0.99)})
        return trial

    landscape.answer = fade
    result, _, _ = search(landscape)
    assert result.winner.key == "b=steady"
    assert result.fitness == fitness_of(result.winner_trial.measurement, planted.plain_options())
    assert result.fitness.value == pytest.approx(0.4 * 1.2 + 0.6, abs=1e-6)


def test_without_ensembles_only_singles_are_measured(search, planted):
    options = planted.plain_options(enable_ensemble_optimization=False, convergence_threshold=0.0)
    result, landscape, _ = search(budget_s=2000, options=options)
    assert all("+" not in key for _, key in landscape.calls)
    assert len(result.winner.steps) == 1 and result.stopped_by == "exhausted"


def test_without_candidate_selection_there_is_one_round_and_no_parents(search, planted):
    options = planted.plain_options(enable_candidate_selection=False, num_candidates=3)
    result, landscape, told = search(budget_s=2000, options=options)
    assert told.of("selection") == [] and result.stopped_by == "one_round" and result.iterations == 1
    searched = [key for purpose, key in landscape.calls if purpose == "search"]
    assert sum("+" in key for key in searched) == 3 and sum("+" not in key for key in searched) == 7
    assert result.improved


def test_speed_alone_counts_without_multi_objective(search, planted):
    effects = {"a": {"small": (1.05, 3.0, 1.0, 1.0), "fast": (1.30, 0.5, 1.0, 1.0)}}
    both, _, _ = search(planted.Landscape(effects=effects, noise=0.0))
    assert both.winner.key == "a=small"
    options = planted.plain_options(enable_multi_objective_optimization=False)
    alone, _, _ = search(planted.Landscape(effects=effects, noise=0.0), options=options)
    assert alone.winner.key == "a=fast"
    assert alone.baseline_fitness == pytest.approx(1.0)


def test_the_front_is_what_brute_force_finds(search, planted):
    result, _, told = search(budget_s=50_000, options=planted.plain_options(convergence_threshold=0.0))
    newest = {}
    for event in told.of("trial_finished"):
        trial = Trial.from_json(event["trial"])
        if trial.is_ok and (trial.measurement.accuracy_preservation.low >= 0.98 or trial.recipe.is_baseline):
            m = trial.measurement
            newest[trial.recipe.key] = (
                m.speed_improvement.value,
                m.memory_efficiency.value,
                m.accuracy_preservation.value,
            )
    # Larger is better; `all >=` and different means dominated.
    expected = {
        key
        for key, point in newest.items()
        if not any(all(x >= y for x, y in zip(q, point, strict=True)) and q != point for q in newest.values())
    }
    assert set(result.front_keys) == expected


@pytest.mark.parametrize("in_processes", [True, False])
def test_the_rounds_of_a_final_are_together_measured_longer_and_tighter(search, in_processes):
    _, landscape, told = search(budget_s=200, in_processes=in_processes)
    by_purpose = {purpose: limits for purpose, limits in landscape.limits}
    rounds = 2 if in_processes else 1
    assert told.of("round_started")[-1]["rounds"] == rounds
    assert by_purpose[Purpose.SEARCH].max_timed_s == pytest.approx(200 / 40)
    assert by_purpose[Purpose.FINAL].max_timed_s * rounds == pytest.approx(200 / 20)
    assert by_purpose[Purpose.FINAL].min_pairs * rounds == 32
    together = by_purpose[Purpose.FINAL].target_half_width / math.sqrt(rounds)
    assert together == pytest.approx(0.015) and together < by_purpose[Purpose.SEARCH].target_half_width


def test_interactions_are_found_although_singles_do_not_show_them(search, planted):
    effects = {"a": {"on": (1.02, 1.0, 1.0, 1.0)}, "b": {"on": (1.02, 1.0, 1.0, 1.0)}, "c": {"on": (1.02, 1, 1.0, 1.0)}}
    landscape = planted.Landscape(effects=effects, bonus={"a=on+b=on+c=on": 1.5})
    result, _, _ = search(landscape, options=planted.plain_options(convergence_threshold=0.0))
    assert result.winner.key == "a=on+b=on+c=on"
    assert len(list(itertools.chain(*landscape.calls)))

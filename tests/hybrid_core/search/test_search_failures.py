"""What a search does when candidates, the machine or time fail it."""

import math

import pytest

from hybrid_core.records import Outcome, Trial

KINDS = ("progress", "trial_started", "trial_finished")


def test_an_unsupported_setting_prunes_every_recipe_that_contains_it(search, planted):
    outcomes = {frozenset({"kernel_fusion=fold"}): Outcome.UNSUPPORTED}
    options = planted.plain_options(convergence_threshold=0.0, max_iterations=100)
    result, landscape, told = search(planted.Landscape(outcomes=outcomes), budget_s=50_000, options=options)
    tried = [key for purpose, key in landscape.calls if "kernel_fusion=fold" in key]
    assert tried == ["kernel_fusion=fold"]
    said = [event for event in told.of("skipped") if event["key"] == "kernel_fusion=fold"]
    assert len(said) == 1 and "unsupported" in said[0]["reason"] and "not tried" in said[0]["reason"]
    assert result.counts["unsupported"] == 1


def test_an_unsupported_pair_does_not_prune_its_parts(search, planted):
    pair = frozenset({"attention_fusion=sdpa", "memory_pooling=in_place"})
    options = planted.plain_options(convergence_threshold=0.0, max_iterations=100)
    landscape = planted.Landscape(outcomes={pair: Outcome.UNSUPPORTED})
    _, _, _ = search(landscape, budget_s=50_000, options=options)
    keys = [set(key.split("+")) for purpose, key in landscape.calls if purpose == "search"]
    assert sum(pair <= key for key in keys) == 1
    assert any("attention_fusion=sdpa" in key and len(key) == 3 for key in keys)


@pytest.mark.parametrize(
    "outcome", [o for o in Outcome if o not in (Outcome.OK, Outcome.CANCELLED, Outcome.DEVICE_LOST)]
)
def test_when_every_candidate_fails_the_untouched_model_wins_with_a_sentence(search, planted, outcome):
    outcomes = {frozenset({f"{n}={s}"}): outcome for n, settings in planted.EFFECTS.items() for s in settings}
    result, _, _ = search(planted.Landscape(outcomes=outcomes), budget_s=900)
    assert result.winner.is_baseline and result.sentence.startswith("nothing was found")
    assert result.counts[str(outcome)] >= 7


def test_a_failed_baseline_ends_the_search_with_its_reason(search, planted):
    landscape = planted.Landscape(outcomes={frozenset(): Outcome.CRASHED})
    result, _, told = search(landscape)
    assert result.failed and result.winner.is_baseline and result.winner_trial is None
    assert result.stop_reason == "the untouched model could not be measured: not measured: planted crashed"
    assert landscape.calls == [("baseline", "baseline")]
    assert told.events[-1][0] == "result"


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_fitness_that_is_not_a_number_is_neither_parent_nor_winner(search, planted, value):
    landscape = planted.Landscape()
    honest = landscape._trial

    def spoil(recipe, purpose):
        trial = honest(recipe, purpose)
        if "attention_fusion" in recipe.strategies:
            return Trial(**{**trial.__dict__, "measurement": planted.make_measurement(value)})
        return trial

    landscape.answer = spoil
    result, _, told = search(landscape, budget_s=900)
    assert "attention_fusion" not in result.winner.key
    assert all("attention_fusion" not in key for event in told.of("selection") for key in event["parents"])
    reasons = [e["infeasible_reason"] for e in told.of("trial_finished") if "attention_fusion" in e["trial"]["recipe"]]
    assert reasons and all("not a number" in reason for reason in reasons)


def test_a_baseline_without_numbers_ends_with_a_sentence(search, planted):
    landscape = planted.Landscape()
    honest = landscape._trial
    landscape.answer = lambda recipe, purpose: Trial(
        **{**honest(recipe, purpose).__dict__, "measurement": planted.make_measurement(math.nan)}
    )
    result, _, _ = search(landscape)
    assert result.failed and "not a number" in result.stop_reason


def test_cancelling_returns_what_is_known(search, planted):
    landscape = planted.Landscape()
    result, _, told = search(landscape, should_stop=lambda: len(landscape.calls) >= 4)
    assert result.stop_reason == "cancelled" and result.stopped_by == "cancelled"
    assert result.winner.is_baseline and "cancelled before the final race" in result.sentence
    assert len(landscape.calls) == 4 and not result.final_trials


def test_cancelling_before_the_first_trial_measures_nothing(search):
    result, landscape, _ = search(should_stop=lambda: True)
    assert landscape.calls == [] and result.stop_reason == "cancelled"


def test_a_cancelled_trial_stops_the_search(search, planted):
    landscape = planted.Landscape(outcomes={frozenset({"attention_fusion=sdpa"}): Outcome.CANCELLED})
    result, _, _ = search(landscape)
    assert result.stop_reason == "cancelled"
    assert landscape.calls[-1] == ("search", "attention_fusion=sdpa")


def test_a_lost_device_stops_the_search_with_its_reason(search, planted):
    landscape = planted.Landscape(outcomes={frozenset({"attention_fusion=sdpa"}): Outcome.DEVICE_LOST})
    result, _, _ = search(landscape)
    assert result.failed and "device was lost" in result.stop_reason


def test_without_time_for_the_race_no_winner_is_named(search, planted):
    landscape = planted.Landscape(overhead_s=5.0)
    honest = landscape._trial

    def slow(recipe, purpose):
        trial = honest(recipe, purpose)
        return trial if recipe.is_baseline else Trial(**{**trial.__dict__, "seconds": 60.0})

    landscape.answer = slow
    result, _, _ = search(landscape, budget_s=40)
    assert result.winner.is_baseline and not result.improved
    assert "second time" in result.sentence and "larger budget" in result.sentence

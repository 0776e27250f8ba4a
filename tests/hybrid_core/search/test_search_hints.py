"""What a search is told saves trials, is told on, and is never needed."""

import pytest

from hybrid_core.records import Outcome, Recipe, Step
from hybrid_core.search.hints import KnownConflict, Surveyed
from hybrid_core.search.starting import starting_points

WIDE = {
    "attention_fusion": {"sdpa": (1.20, 1.30, 1.0, 1.0), "a2": (1.0, 1.0, 1.0, 1.0), "a3": (1.0, 1.0, 1.0, 1.0)},
    "kernel_fusion": {"fold": (1.15, 1.00, 1.0, 0.5), "k2": (1.0, 1.0, 1.0, 0.5), "k3": (1.0, 1.0, 1.0, 0.5)},
    "memory_pooling": {"in_place": (1.10, 1.20, 1.0, 0.5), "m2": (1.0, 1.0, 1.0, 1.0)},
    "quantization": {"int8_dynamic": (1.3, 1.60, 0.995, 1.0), "q2": (1.0, 1.0, 1.0, 1.0)},
}


def surveyor(reasons, seconds=5.0, problem=""):
    asked = []

    def survey(steps, limit_s):
        asked.append((list(steps), limit_s))
        return Surveyed({Step(*key.split("=")): why for key, why in reasons.items()}, len(steps), seconds, problem)

    survey.asked = asked
    return survey


def searched(landscape):
    return [key for purpose, key in landscape.calls if purpose == "search"]


def test_what_the_model_cannot_have_becomes_a_trial_without_being_measured(search, planted):
    survey = surveyor({"kernel_fusion=fold": "no norm is followed by a linear layer"})
    result, landscape, told = search(planted.Landscape(), budget_s=2000, survey=survey)
    assert not any("kernel_fusion=fold" in key for key in searched(landscape))
    (event,) = told.of("survey")
    assert event["unsupported"] == {"kernel_fusion=fold": "no norm is followed by a linear layer"}
    (trial,) = [e["trial"] for e in told.of("trial_finished") if e["trial"]["outcome"] == "unsupported"]
    assert (trial["recipe"], trial["stage"]) == ({"kernel_fusion": "fold"}, "survey")
    assert trial["reason"] == "no norm is followed by a linear layer" and result.counts["unsupported"] == 1
    (steps, limit_s), *more = survey.asked
    assert len(steps) == 7 and not more and 0 < limit_s <= 2000


def test_a_survey_that_answers_nothing_leaves_everything_to_be_tried(search, planted):
    survey = surveyor({}, problem="the survey took more than 20 s and was ended")
    _, landscape, told = search(planted.Landscape(), budget_s=2000, survey=survey)
    singles = {f"{n}={s}" for n, settings in planted.EFFECTS.items() for s in settings}
    assert singles <= set(searched(landscape))
    assert told.of("survey")[0]["problem"].startswith("the survey took more")


def test_the_seconds_of_a_survey_count_against_the_budget(search, planted):
    asked, free = (search(planted.Landscape(), budget_s=700, survey=s)[0] for s in (surveyor({}, 50.0), None))
    assert asked.elapsed_s >= 50.0 and asked.cost["parts_s"]["asking the settings"] == 50.0
    assert sum(asked.counts.values()) <= sum(free.counts.values())


def test_a_few_settings_are_tried_and_not_asked(search, planted):
    survey = surveyor({})
    search(planted.Landscape(effects={"quantization": {"int8_dynamic": (1.1, 1.6, 1.0, 1.0)}}), survey=survey)
    assert survey.asked == []


def test_a_survey_survives_its_event():
    found = Surveyed({Step("quantization", "bfloat16"): "no linear layer"}, 7, 3.5, "")
    assert Surveyed.from_event(found.to_event()) == found


def test_what_failed_together_before_is_not_tried_again_and_says_so(search, planted):
    pair = Recipe.from_dict({"attention_fusion": "sdpa", "memory_pooling": "in_place"})
    conflict = KnownConflict(pair, "they crashed together in run r0; forget it to try again")
    options = planted.plain_options(convergence_threshold=0.0, max_iterations=100)
    _, landscape, told = search(planted.Landscape(), budget_s=50_000, options=options, conflicts=[conflict])
    assert not any(
        {"attention_fusion=sdpa", "memory_pooling=in_place"} <= set(k.split("+")) for k in searched(landscape)
    )
    assert {"attention_fusion=sdpa", "memory_pooling=in_place"} <= set(searched(landscape))
    assert {"key": pair.key, "reason": conflict.sentence} in told.of("skipped")


def test_a_conflict_outside_the_space_is_not_spoken_of(search):
    gone = KnownConflict(Recipe.from_dict({"attention_fusion": "gone", "quantization": "bfloat16"}), "old")
    _, _, told = search(conflicts=[gone])
    assert all(event["reason"] != "old" for event in told.of("skipped"))


@pytest.mark.parametrize(
    ("family", "strategies"),
    [
        ("deepseek", ("kernel_fusion", "quantization", "attention_fusion")),
        ("llama", ("memory_pooling", "kernel_fusion", "quantization")),
        ("claude", ("attention_fusion", "memory_pooling")),
        ("viral_clipper", ("kernel_fusion", "memory_pooling")),
        ("brandkit", ("quantization", "memory_pooling")),
        ("qwen", ("attention_fusion", "kernel_fusion")),
    ],
)
def test_without_history_the_search_begins_with_the_documents_strategies_of_the_family(
    search, planted, family, strategies
):
    _, landscape, told = search(planted.Landscape(effects=WIDE), budget_s=2000, family=family)
    first = [Recipe.from_key(key).strategies[0] for key in searched(landscape)[: len(strategies)]]
    assert tuple(first) == strategies
    (event,) = told.of("starting_points")
    assert event["source"] == "document" and event["family"] == family
    assert event["keys"] == searched(landscape)[: len(strategies)] and "claims" in event["sentence"]


def test_another_family_begins_with_the_singles_as_they_come(search, planted):
    _, _, told = search(planted.Landscape(effects=WIDE), family="convnet")
    assert told.of("starting_points") == []


def test_the_starting_points_say_which_strategy_has_none():
    recipe = Recipe.from_dict({"memory_pooling": "in_place"})
    event = starting_points("llama", [], [recipe], ("memory_pooling", "kernel_fusion"))
    assert "kernel_fusion has no setting that can be tried now at little cost" in event["sentence"]


def test_good_pairs_grow_into_triples_and_quadruples_within_the_budget(search, planted):
    result, landscape, _ = search(planted.Landscape(effects=WIDE), budget_s=420)
    lengths = [key.count("+") + 1 for key in searched(landscape)]
    assert max(lengths) == 4
    assert result.winner.key == (
        "attention_fusion=sdpa+kernel_fusion=fold+memory_pooling=in_place+quantization=int8_dynamic"
    )
    assert landscape.now - 100 <= 420


def test_pairs_that_hinder_each_other_are_not_extended(search, planted):
    effects = {"a": {"on": (1.3, 1.0, 1.0, 1.0)}, "b": {"on": (1.2, 1.0, 1.0, 1.0)}, "c": {"on": (1.1, 1.0, 1.0, 1.0)}}
    bonus = {"a=on+b=on": 0.5, "a=on+c=on": 0.5, "b=on+c=on": 0.5}
    options = planted.plain_options(max_iterations=2)
    _, landscape, told = search(planted.Landscape(effects=effects, bonus=bonus), options=options)
    assert "a=on+b=on+c=on" not in searched(landscape)
    found = {(s["key"], s["objective"]): s["verdict"] for s in told.of("synergy")[0]["synergies"]}
    assert found["a=on+b=on", "speed"] == "worse together" and found["a=on+b=on", "memory"] == "as expected"


def test_many_singles_leave_half_of_the_budget_to_ensembles(search, planted):
    effects = {s: {f"{s[0]}{i}": (1.1, 1.0, 1.0, 1.0) for i in range(8)} for s in planted.EFFECTS}
    _, landscape, told = search(planted.Landscape(effects=effects), budget_s=300)
    assert sum("+" in key for key in searched(landscape)) >= 5
    measured = set(searched(landscape))
    said = {event["key"] for event in told.of("skipped")}
    singles = {f"{strategy}={setting}" for strategy, settings in effects.items() for setting in settings}
    assert singles <= measured | said


def test_a_timeout_of_one_outcome_still_counts_every_trial(search, planted):
    outcomes = {frozenset({"quantization=bfloat16"}): Outcome.TIMEOUT}
    result, _, told = search(planted.Landscape(outcomes=outcomes), survey=surveyor({}))
    assert sum(result.counts.values()) == len(told.of("trial_finished"))

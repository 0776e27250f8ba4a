"""Several processes make one trial: the race over rounds, and how they are merged."""

import json
import math
from dataclasses import replace

import pytest

from hybrid_core.measurement.rounds import combine_rounds, spread_of
from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Trial, Verdict, to_json
from hybrid_core.search.account import Account
from hybrid_core.search.final import crown, detectable_gain
from hybrid_core.search.merging import merge_rounds
from hybrid_core.search.speeds import estimates_of

FAST = Recipe.from_dict({"a": "fast"})


def logs(*values):
    return [math.log(value) for value in values]


# -- the race --------------------------------------------------------------------------------------------------------


def test_the_rounds_are_taken_in_turn_over_all_finalists(search, planted):
    effects = {"a": {"on": (1.3, 1.0, 1.0, 1.0)}, "b": {"on": (1.6, 1.0, 1.0, 1.0)}, "c": {"on": (1.2, 1, 1, 1.0)}}
    _, landscape, _ = search(planted.Landscape(effects=effects, noise=0.0), budget_s=600)
    race = [(key, number) for purpose, key, number in landscape.rounds if purpose == "final"]
    entrants = [key for key, number in race if number == 1]
    assert len(entrants) >= 3 and entrants[1] == "baseline"
    assert race[: 3 * len(entrants)] == [(key, number) for number in (1, 2, 3) for key in entrants]


def test_a_result_holds_one_trial_of_each_finalist_with_all_its_processes(search, planted):
    result, landscape, told = search(planted.Landscape(round_noise=0.01), budget_s=900)
    taken = [(key, number) for purpose, key, number in landscape.rounds if purpose == "final"]
    for trial in result.final_trials:
        numbers = [number for key, number in taken if key == trial.recipe.key]
        entries = trial.measurement.environment["rounds"]
        assert [entry["trial_id"] for entry in entries] == [f"run:final.{n}:{trial.recipe.key}" for n in numbers]
        assert len(trial.measurement.pairs_ms) == sum(entry["pairs"] for entry in entries)
        assert trial.seconds == pytest.approx(sum(entry["seconds"] for entry in entries))
    assert len(told.of("round_finished")) == len([n for _, _, n in landscape.rounds if n])
    assert result.final_trials[0].recipe.is_baseline


def test_a_finalist_that_is_wrong_once_is_wrong(search, planted):
    effects = {"a": {"on": (1.5, 1.0, 1.0, 1.0)}, "b": {"on": (1.2, 1.0, 1.0, 1.0)}}
    landscape = planted.Landscape(effects=effects, noise=0.0)

    def answer(recipe, purpose):
        if purpose is Purpose.FINAL and "a=on" in recipe.key and landscape.number == 2:
            return Trial("", "run", recipe, purpose, Outcome.WRONG, "its answers differ", "timing", seconds=4.0)
        return None

    landscape.answer = answer
    result, _, _ = search(landscape, budget_s=600)
    assert result.winner.key == "b=on" and result.counts["wrong"] == 2
    spoiled = [trial for trial in result.final_trials if trial.outcome is Outcome.WRONG]
    assert all(trial.reason == "in process 2 of 2: its answers differ" for trial in spoiled)
    third = [key for purpose, key, number in landscape.rounds if purpose == "final" and number == 3]
    assert "a=on" not in third and "b=on" in third


@pytest.mark.parametrize(("budget_s", "rounds"), [(55, 1), (85, 2), (600, 3)])
def test_a_short_budget_has_fewer_rounds_and_the_sentence_says_how_many(search, planted, budget_s, rounds):
    effects = {"a": {"on": (1.5, 1.0, 1.0, 1.0)}}
    result, landscape, _ = search(planted.Landscape(effects=effects, overhead_s=12.0), budget_s=budget_s)
    assert max(number for purpose, _, number in landscape.rounds if purpose == "final") == rounds
    assert landscape.now - 100 <= budget_s
    said = f"from {rounds} processes" if rounds > 1 else "from one process"
    assert result.winner.key == "a=on" and said in result.sentence and "could not have been seen" in result.sentence


def test_a_close_decision_gets_further_rounds_and_a_clear_one_does_not(search, planted):
    def most_rounds(speed):
        effects = {"a": {"on": (speed, 1.0, 1.0, 1.0)}}
        landscape = planted.Landscape(effects=effects, noise=0.0)
        offsets = iter([0.0, 0.012, -0.012, 0.004, -0.004])

        def answer(recipe, purpose):
            if purpose is not Purpose.FINAL or recipe.is_baseline:
                return None
            trial = landscape._trial(recipe, purpose)
            own = planted.make_measurement(speed * math.exp(next(offsets)), half=0.004)
            return replace(trial, measurement=own)

        landscape.answer = answer
        search(landscape, budget_s=900)
        return max(number for purpose, key, number in landscape.rounds if (purpose, key) == ("final", "a=on"))

    assert most_rounds(1.5) == 3
    assert most_rounds(1.013) > 3


def test_a_round_at_the_end_of_the_budget_has_twice_the_time_it_is_expected_to_take(search, planted):
    effects = {"a": {"on": (1.5, 1.0, 1.0, 30.0)}}
    _, landscape, _ = search(planted.Landscape(effects=effects, overhead_s=20.0), budget_s=215)
    last = [limits for purpose, limits in landscape.limits if purpose is Purpose.FINAL][-2:]
    assert 215 - (landscape.now - 100.0) < 50 and all(limits.total_timeout_s >= 2 * 20.0 for limits in last)


def test_in_one_process_everything_is_measured_once(search, planted):
    result, landscape, told = search(planted.Landscape(), budget_s=900, in_processes=False)
    assert {number for _, _, number in landscape.rounds} <= {0, 1}
    assert result.improved and "from one process" in result.sentence


def test_cancelling_in_the_race_crowns_nobody(search, planted):
    landscape = planted.Landscape()

    def in_second_round():
        return any(purpose == "final" and number == 2 for purpose, _, number in landscape.rounds)

    result, _, _ = search(landscape, budget_s=900, should_stop=in_second_round)
    assert result.stopped_by == "cancelled" and result.winner.is_baseline and not result.final_trials


# -- merging ---------------------------------------------------------------------------------------------------------


def test_the_speed_of_a_merged_trial_is_combined_over_its_processes(planted):
    rounds, known = planted.rounds_of((1.20, 1.26, 1.23)), spread_of([logs(1.0, 1.02), logs(1.1, 1.12)])
    merged = merge_rounds("run:final:a=fast", rounds, known)
    speeds = [one.measurement.speed_improvement for one in rounds]
    assert merged.measurement.speed_improvement == combine_rounds(speeds, known)
    assert estimates_of(merged.measurement) == speeds
    assert merged.trial_id == "run:final:a=fast" and merged.seconds == 18.0
    assert merged.phases_s == {"timing": 6.0, "build": 3.0}
    assert Trial.from_json(json.loads(json.dumps(to_json(merged), allow_nan=False))) == merged


def test_what_was_counted_is_taken_at_its_least_favourable(planted):
    rounds = planted.rounds_of((1.2, 1.2, 1.2))
    accuracies = (Estimate(1.0, 0.99, 1.01), Estimate(0.98, 0.96, 0.99), Estimate(0.99, 0.98, 1.0))
    for n, accuracy in enumerate(accuracies):
        changed = replace(
            rounds[n].measurement, accuracy_preservation=accuracy, peak_bytes=1000 + n, max_abs_error=float(n),
            warnings=("throttled",) if n == 1 else ("noisy", "throttled"),
        )  # fmt: skip
        rounds[n] = replace(rounds[n], measurement=changed)
    merged = merge_rounds("x", rounds).measurement
    assert merged.accuracy_preservation == Estimate(0.99, 0.96, 1.01)
    assert merged.peak_bytes == 1002 and merged.max_abs_error == 2.0
    assert merged.warnings == ("process 1 and 3: noisy", "throttled")


@pytest.mark.parametrize("outcome", [Outcome.WRONG, Outcome.CRASHED, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY])
def test_one_failed_process_condemns_and_names_which(planted, outcome):
    rounds = planted.rounds_of((1.2, 1.2, 1.2))
    rounds[1] = replace(rounds[1], outcome=outcome, reason="because", measurement=None, stage="timing")
    merged = merge_rounds("x", rounds)
    assert (merged.outcome, merged.reason, merged.stage) == (outcome, "in process 2 of 3: because", "timing")
    assert merged.measurement is None


def test_a_process_that_was_lost_says_nothing_about_its_recipe(planted):
    rounds = planted.rounds_of((1.2, 1.3, 1.25))
    rounds[0] = replace(rounds[0], outcome=Outcome.WORKER_LOST, reason="gone", measurement=None)
    merged = merge_rounds("x", rounds)
    assert merged.is_ok and len(merged.measurement.environment["rounds"]) == 2
    assert "1 of 3 processes were lost" in merged.measurement.warnings[-1]
    alone = merge_rounds("x", rounds[:1])
    assert (alone.outcome, alone.reason) == (Outcome.WORKER_LOST, "gone")


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_process_without_a_number_leaves_the_trial_without_one(planted, value):
    merged = merge_rounds("x", planted.rounds_of((1.2, value)))
    assert repr(merged.measurement.speed_improvement.value) == repr(value)


# -- several finalists -----------------------------------------------------------------------------------------------


def test_a_gain_that_several_finalists_may_show_by_chance_is_a_tie(planted):
    floors = {"speed": 0.01, "memory": 0.01, "accuracy": 0.01}

    def final(key, chance):
        measured = planted.make_measurement(1.1)
        environment = {"between_processes": {"sd": 0.01, "degrees": 5, "p_value": chance}}
        trial = Trial(key, "run", Recipe.from_key(key), Purpose.FINAL, Outcome.OK, seconds=1.0)
        return replace(trial, measurement=replace(measured, environment=environment))

    alone = crown([final("a=1", 0.03)], planted.plain_options(), floors)
    assert alone.winner.key == "a=1" and alone.verdicts["speed"] is Verdict.BETTER
    among = crown([final("a=1", 0.03), final("b=1", 0.04)], planted.plain_options(), floors)
    assert among.winner.is_baseline and "could not have been seen" in among.sentence


def test_the_detectable_gain_is_that_of_the_least_certain(planted):
    finals = [merge_rounds(str(n), planted.rounds_of(speeds)) for n, speeds in enumerate([(1.2, 1.21), (1.1,)])]
    widest = max(detectable_gain([one]) for one in finals)
    assert detectable_gain(finals) == widest > 0 and detectable_gain([]) is None


# -- the account -----------------------------------------------------------------------------------------------------


def test_the_parts_of_the_account_add_up_to_the_wall_time():
    account = Account(start_s=3.0)
    phases = {"start": 0.5, "import": 2.0, "build": 1.0, "compile": 4.0, "timing": 8.0, "end": 0.5, "quality": 1.0}
    account.add(Trial("x", "run", Recipe(), Purpose.SEARCH, Outcome.OK, seconds=17.0, phases_s=phases))
    account.add_asking(5.0)
    told = account.to_event(elapsed_s=23.0)
    assert told["wall_s"] == 26.0 and sum(told["parts_s"].values()) == pytest.approx(26.0)
    assert told["parts_s"]["measuring"] == 8.0 and told["parts_s"]["process start and imports"] == 2.5
    assert told["parts_s"]["orchestration"] == pytest.approx(1.0) and told["parts_s"]["start of the run"] == 3.0
    assert told["orchestration_share"] == pytest.approx(4.0 / 26.0)


def test_a_search_accounts_for_every_process(search):
    result, landscape, _ = search(budget_s=600, start_s=6.0)
    assert result.cost["processes"] == len(landscape.rounds)
    assert result.cost["wall_s"] == pytest.approx(landscape.now - 100.0 + 6.0)
    assert result.cost["parts_s"]["start of the run"] == 6.0
    assert result.cost["parts_s"]["orchestration"] == pytest.approx(0.0)

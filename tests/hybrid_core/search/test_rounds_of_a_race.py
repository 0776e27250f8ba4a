"""Several processes make one trial: the race over rounds, how they are merged, and what noise does to verdicts."""

import json
import math
import random
from dataclasses import replace

import pytest

from hybrid_core.fitness import SMALLEST_NOISE_FLOOR
from hybrid_core.measurement.rounds import combine_rounds, noise_floor, spread_of, widen
from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Trial, Verdict, to_json
from hybrid_core.search.account import Account
from hybrid_core.search.book import TrialBook
from hybrid_core.search.final import crown, detectable_gain
from hybrid_core.search.merging import merge_rounds
from hybrid_core.search.noise import Noise, estimates_of

FAST = Recipe.from_dict({"a": "fast"})


def rounds_of(planted, speeds, recipe=FAST, purpose=Purpose.FINAL, **changes):
    return [
        Trial(
            f"run:{purpose}.{n}:{recipe.key}", "run", recipe, purpose, Outcome.OK, seconds=4.0 + n,
            measurement=replace(planted.make_measurement(speed), **changes), phases_s={"timing": 2.0, "build": 1.0},
        )
        for n, speed in enumerate(speeds, 1)
    ]  # fmt: skip


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
    rounds, known = rounds_of(planted, (1.20, 1.26, 1.23)), spread_of([logs(1.0, 1.02), logs(1.1, 1.12)])
    merged = merge_rounds("run:final:a=fast", rounds, known)
    speeds = [one.measurement.speed_improvement for one in rounds]
    assert merged.measurement.speed_improvement == combine_rounds(speeds, known)
    assert estimates_of(merged.measurement) == speeds
    assert merged.trial_id == "run:final:a=fast" and merged.seconds == 18.0
    assert merged.phases_s == {"timing": 6.0, "build": 3.0}
    assert Trial.from_json(json.loads(json.dumps(to_json(merged), allow_nan=False))) == merged


def test_what_was_counted_is_taken_at_its_least_favourable(planted):
    rounds = rounds_of(planted, (1.2, 1.2, 1.2))
    accuracies = (Estimate(1.0, 0.99, 1.01), Estimate(0.98, 0.96, 0.99), Estimate(0.99, 0.98, 1.0))
    for n, accuracy in enumerate(accuracies):
        changed = replace(
            rounds[n].measurement, accuracy_preservation=accuracy, peak_bytes=1000 + n, max_abs_error=float(n),
            warnings=("throttled",) if n == 1 else ("noisy", "throttled"),
        )  # fmt: skip
        rounds[n] = replace(rounds[n], measurement=changed)
    merged = merge_rounds("x", rounds, None).measurement
    assert merged.accuracy_preservation == Estimate(0.99, 0.96, 1.01)
    assert merged.peak_bytes == 1002 and merged.max_abs_error == 2.0
    assert merged.warnings == ("process 1 and 3: noisy", "throttled")


@pytest.mark.parametrize("outcome", [Outcome.WRONG, Outcome.CRASHED, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY])
def test_one_failed_process_condemns_and_names_which(planted, outcome):
    rounds = rounds_of(planted, (1.2, 1.2, 1.2))
    rounds[1] = replace(rounds[1], outcome=outcome, reason="because", measurement=None, stage="timing")
    merged = merge_rounds("x", rounds, None)
    assert (merged.outcome, merged.reason, merged.stage) == (outcome, "in process 2 of 3: because", "timing")
    assert merged.measurement is None


def test_a_process_that_was_lost_says_nothing_about_its_recipe(planted):
    rounds = rounds_of(planted, (1.2, 1.3, 1.25))
    rounds[0] = replace(rounds[0], outcome=Outcome.WORKER_LOST, reason="gone", measurement=None)
    merged = merge_rounds("x", rounds, None)
    assert merged.is_ok and len(merged.measurement.environment["rounds"]) == 2
    assert "1 of 3 processes were lost" in merged.measurement.warnings[-1]
    alone = merge_rounds("x", rounds[:1], None)
    assert (alone.outcome, alone.reason) == (Outcome.WORKER_LOST, "gone")


@pytest.mark.parametrize("value", [math.nan, math.inf, 0.0])
def test_a_process_without_a_number_leaves_the_trial_without_one(planted, value):
    merged = merge_rounds("x", rounds_of(planted, (1.2, value)), None)
    assert repr(merged.measurement.speed_improvement.value) == repr(value)


# -- noise -----------------------------------------------------------------------------------------------------------


def row(key, *ratios, **changes):
    rounds = [{"ratio": r, "low": r * 0.99, "high": r * 1.01} for r in ratios]
    plain = {"speed": ratios[0], "speed_low": ratios[0] * 0.99, "speed_high": ratios[0] * 1.01}
    return {"trial_id": f"{key}{ratios}", "recipe_key": key, "rounds": rounds, **plain, **changes}


def test_the_noise_is_pooled_from_the_days_against_itself_and_its_repeated_finals():
    noise = Noise([row("baseline", 1.01, rounds=[]), row("baseline", 0.98, 1.02), row("a=1", 1.5, 1.53), row("b=1", 2)])
    expected = spread_of([logs(1.5, 1.53)], logs(1.01, 0.98, 1.02))
    assert noise.spread.sd == pytest.approx(expected.sd) and noise.spread.degrees == expected.degrees == 4
    told = noise.to_event()
    assert (told["against_itself"], told["repeated"], len(told["trials"])) == (3, 1, 3)
    floor = noise_floor(noise.spread, 1)
    assert told["floor"] == floor > SMALLEST_NOISE_FLOOR and f"by up to {floor:.1%}" in told["sentence"]
    assert "3 A/A measurements and 1 repeated final" in told["sentence"]


def test_a_disturbed_measurement_against_itself_counts_only_where_no_other_is_known():
    calm, wild = row("baseline", 1.01, 0.99, 1.0), row("baseline", 2.1, flagged=True)
    assert Noise([calm, wild]).spread == Noise([calm]).spread
    assert Noise([wild]).spread.sd == pytest.approx(math.log(2.1))


def test_what_moves_two_equal_models_does_not_narrow_the_interval_of_a_recipe(planted):
    noise, finals = Noise([row("baseline", 1.001, 0.999, 1.0, 1.001, 0.999)]), rounds_of(planted, (1.2, 1.3, 1.25))
    for one in finals:
        noise.learn(one)
    assert noise.known is not None and noise.of_recipes is None
    noise = Noise([row("a=1", 1.5, 1.53, 1.51), row("b=1", 2, 2.02, 2.01), row("baseline", 1.3)])
    assert noise.of_recipes.degrees == 4 and noise.of_recipes.sd < noise.spread.sd
    assert noise.least_of_recipes is None


def test_two_processes_that_agree_by_luck_are_no_surer_than_what_the_device_does_to_equal_models(planted):
    noise = Noise([row("baseline", *(math.exp(random.Random(n).gauss(0, 0.02)) for n in range(12)))])
    lucky = rounds_of(planted, (1.219, 1.222))
    alone, held = (merge_rounds("x", lucky, None, least) for least in (None, noise.least_of_recipes))
    assert noise.least_of_recipes.sd == pytest.approx(2 * noise.known.sd)
    speed = held.measurement.speed_improvement
    assert speed == combine_rounds([t.measurement.speed_improvement for t in lucky], noise.least_of_recipes)
    assert speed.low < 1.18 and speed.high > 1.26 and alone.measurement.speed_improvement.low > 1.19
    chances = [t.measurement.environment["between_processes"]["p_value"] for t in (alone, held)]
    assert chances[0] < chances[1] or chances[0] == pytest.approx(chances[1])
    far = rounds_of(planted, (1.0, 1.6))
    wide = merge_rounds("x", far, None, noise.least_of_recipes).measurement.speed_improvement
    assert wide == merge_rounds("x", far, None).measurement.speed_improvement, "what they show themselves counts"


def test_the_untouched_model_against_itself_is_judged_by_what_is_known_of_it(search):
    day = [row("baseline", *(math.exp(sign * 0.002) for sign in (1, -1) * 5))]
    _, _, told = search(noise=Noise(day))
    final = next(
        e["trial"] for e in told.of("trial_finished") if e["trial"]["purpose"] == "final" and not e["trial"]["recipe"]
    )
    assert final["measurement"]["environment"]["between_processes"]["degrees"] > 10


def test_too_little_noise_is_known_after_one_measurement_against_itself(planted):
    noise = Noise([row("baseline", 1.01)])
    trial = rounds_of(planted, (1.2,), purpose=Purpose.SEARCH)[0]
    assert noise.known is None and noise.floor() is None and noise.widened(trial) is trial
    assert "not known yet, from 1 A/A measurement" in noise.sentence()


def test_a_search_trial_is_widened_once_and_by_what_is_known(planted):
    noise = Noise([row("baseline", *(math.exp(random.Random(n).gauss(0, 0.02)) for n in range(9)))])
    trial = rounds_of(planted, (1.2,), purpose=Purpose.SEARCH, break_even_calls=7)[0]
    wide = noise.widened(trial)
    inside, shown = trial.measurement.speed_improvement, wide.measurement.speed_improvement
    assert shown == widen(inside, noise.least_of_recipes) and shown.low < inside.low and shown.high > inside.high
    assert wide.measurement.break_even_calls == 7 and wide.measurement.pairs_ms == trial.measurement.pairs_ms
    assert noise.widened(wide) is wide
    doubtful = noise.widened(rounds_of(planted, (1.02,), purpose=Purpose.SEARCH, break_even_calls=7)[0])
    assert doubtful.measurement.speed_improvement.low < 1.0 and doubtful.measurement.break_even_calls is None


def test_a_gain_that_the_device_shows_by_itself_is_no_gain(search, planted):
    effects = {"a": {"on": (1.04, 1.0, 1.0, 1.0)}}
    day = [row("baseline", *(math.exp(sign * 0.03) for sign in (1, -1) * 5))]
    calm, _, _ = search(planted.Landscape(effects=effects, noise=0.0))
    noisy, _, told = search(planted.Landscape(effects=effects, noise=0.0), noise=Noise(day))
    assert calm.winner.key == "a=on" and noisy.winner.is_baseline
    single = next(e for e in told.of("trial_finished") if e["trial"]["recipe"])
    assert single["verdict"] == "tie" and single["trial"]["measurement"]["speed_improvement"]["low"] < 1.0
    assert noisy.noise_floor > calm.noise_floor and noisy.noise["against_itself"] > len(day[0]["rounds"])


def test_a_run_measures_against_itself_several_times_unless_the_day_is_known(search):
    day = [row("baseline", *(math.exp(0.002 * n) for n in range(9)))]
    for noise, budget_s, expected in ((None, 600, 3), (Noise(day), 600, 1), (None, 30, 1)):
        _, landscape, _ = search(budget_s=budget_s, noise=noise)
        assert sum(purpose == "baseline" for purpose, _, _ in landscape.rounds) == expected


@pytest.mark.parametrize(("disturbed", "fails"), [((1,), False), ((2, 3), False), ((1, 2, 3), True)])
def test_a_disturbed_process_against_itself_ends_the_run_only_if_no_other_was_measured(
    search, planted, disturbed, fails
):
    landscape = planted.Landscape()

    def answer(recipe, purpose):
        if purpose is Purpose.BASELINE and landscape.number in disturbed:
            return Trial("", "run", recipe, purpose, Outcome.UNSTABLE, "much was disturbed", "timing", seconds=4.0)
        return None

    landscape.answer = answer
    result, _, _ = search(landscape, budget_s=600)
    assert result.failed is fails
    if fails:
        assert "in process 1 of 3: much was disturbed" in result.stop_reason


def test_a_search_trial_is_judged_by_the_noise_of_one_process_and_a_final_by_that_of_its_own(planted):
    book = TrialBook(planted.plain_options())
    speeds = (1.02, 0.98, 1.03, 0.97)
    book.add(merge_rounds("x", rounds_of(planted, speeds, Recipe(), Purpose.BASELINE), None))
    assert book.noise_floors["speed"] == noise_floor(book.noise.known, 1)
    book.add(merge_rounds("y", rounds_of(planted, speeds, Recipe(), Purpose.FINAL), None))
    assert book.noise_floors["speed"] == noise_floor(book.noise.known, 4)


def test_a_recipe_that_every_process_measured_slower_does_not_win_by_its_memory(planted):
    """Between processes the interval reaches beyond 1; each of them by itself says slower."""
    wide = Noise([row("baseline", *(math.exp(random.Random(n).gauss(0, 0.05)) for n in range(12)))]).least_of_recipes
    floors = {"speed": 0.01, "memory": 0.01, "accuracy": 0.01}

    def crowned(*speeds):
        rounds = rounds_of(planted, speeds, memory_efficiency=Estimate.exact(2.0))
        final = merge_rounds("x", rounds, None, wide)
        assert final.measurement.speed_improvement.high > 1.0
        return crown([final], planted.plain_options(), floors)

    refused = crowned(0.90, 0.91)
    assert (
        refused.winner.is_baseline and "every process measured its speed below the bound 1: 0.900 (" in refused.sentence
    )
    assert not crowned(0.90, 1.01).winner.is_baseline


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
    finals = [merge_rounds(str(n), rounds_of(planted, speeds), None) for n, speeds in enumerate([(1.2, 1.21), (1.1,)])]
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

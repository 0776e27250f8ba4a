"""What is known of how far processes differ, whom it is believed of, and what it does to intervals and verdicts."""

import math
import random
from dataclasses import replace

import pytest

from hybrid_core.fitness import SMALLEST_NOISE_FLOOR
from hybrid_core.measurement.rounds import combine_rounds, noise_floor, spread_of, spread_of_recipes, widen
from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Trial
from hybrid_core.search.book import TrialBook
from hybrid_core.search.final import crown
from hybrid_core.search.merging import join_rounds, merge_rounds
from hybrid_core.search.noise import MOMENT, OTHERS_TRUST, Noise

FAST, SLIM, PLAIN, LEAN = (Recipe.from_dict({"a": name}) for name in ("fast", "slim", "plain", "lean"))


def logs(*values):
    return [math.log(value) for value in values]


def row(key, *ratios, **changes):
    rounds = [{"ratio": r, "low": r * 0.99, "high": r * 1.01} for r in ratios]
    plain = {"speed": ratios[0], "speed_low": ratios[0] * 0.99, "speed_high": ratios[0] * 1.01}
    return {"trial_id": f"{key}{ratios}", "recipe_key": key, "rounds": rounds, **plain, **changes}


def test_the_floor_is_what_a_a_of_this_model_and_a_few_of_others_show_whatever_recipes_do():
    others, own = (1.03, 0.97) * 10, (1.001, 0.998, 1.0, 1.002)
    recipes = [row("a=1", 1.5, 2.5, own=True), row("b=1", 2)]
    elsewhere = [row("baseline", ratio, rounds=[]) for ratio in others]
    noise = Noise([*elsewhere, *recipes])
    assert noise.spread == Noise(elsewhere).spread and noise.spread.degrees == 20
    assert "from 20 A/A measurements, none of this model" in noise.sentence()
    noise = Noise([*elsewhere, *recipes, row("baseline", *own, own=True)])
    squares = [sum(x * x for x in logs(*ratios)) / len(ratios) for ratios in (own, others + own)]
    assert noise.spread.degrees == 4 + OTHERS_TRUST
    assert noise.spread.sd**2 == pytest.approx((4 * squares[0] + OTHERS_TRUST * squares[1]) / (4 + OTHERS_TRUST))
    told = noise.to_event()
    assert (told["against_itself"], told["repeated"], len(told["trials"])) == (24, 1, 23)
    floor = noise_floor(noise.spread, 1)
    assert told["floor"] == floor > SMALLEST_NOISE_FLOOR and f"by up to {floor:.1%}" in told["sentence"]
    assert "24 A/A measurements, 4 of this model" in told["sentence"]
    assert "from 4 A/A measurements" in Noise([row("baseline", *own, own=True)]).sentence()


def test_a_disturbed_measurement_against_itself_counts_only_where_no_other_is_known():
    calm, wild = row("baseline", 1.01, 0.99, 1.0), row("baseline", 2.1, flagged=True)
    assert Noise([calm, wild]).spread == Noise([calm]).spread
    assert Noise([wild]).spread.sd == pytest.approx(math.log(2.1))


CALM = (1.001, 0.999, 1.0, 1.001, 0.999)


def doubled(*ratios):
    """The variance that A/A says recipes have within their minutes."""
    return 4 * sum(x * x for x in logs(*ratios)) / len(ratios) / (1 + MOMENT)


def test_what_moves_two_equal_models_counts_double_and_little_beside_recipes(planted):
    noise = Noise([row("baseline", *CALM, own=True)])
    alone = noise.of(PLAIN)
    assert alone.degrees == OTHERS_TRUST and alone.sd**2 == pytest.approx(doubled(*CALM))
    for recipe in (FAST, SLIM):
        noise.hear(planted.rounds_of((1.2, 1.3, 1.25), recipe))
    noise.learn(merge_rounds("x", planted.rounds_of((1.2, 1.3, 1.25))))
    both = noise.of(PLAIN)
    recipes = spread_of([logs(1.2, 1.3, 1.25)]).sd ** 2
    assert both.degrees == 4 + OTHERS_TRUST and both.source == "this model"
    assert both.sd**2 == pytest.approx((4 * recipes + OTHERS_TRUST * doubled(*CALM)) / (4 + OTHERS_TRUST))
    assert noise.known.sd == pytest.approx(spread_of([], logs(*CALM)).sd), "the floor is A/A alone"


def test_recipes_of_the_same_model_count_alone_where_they_are_enough_and_others_for_little():
    others = [row(f"{n}=1", 1.5, 1.53, 1.5, 1.54, model="steady") for n in range(4)]
    own = [row("a=fast", 1.5, 2.1, model="unsteady", own=True), row("a=slim", 1.3, 0.9, model="unsteady", own=True)]
    steady = Noise(others).of(PLAIN)
    assert steady.degrees == OTHERS_TRUST and steady.sd < 0.02 and steady.source == "all models of the last day"
    few = Noise(others + own).of(PLAIN)
    assert few.degrees == OTHERS_TRUST and steady.sd < few.sd < 0.2, "two degrees of its own are not enough"
    third = row("a=fast", 2.6, model="unsteady", own=True)
    alone = Noise([*others, *own, third]).of(PLAIN)
    expected = spread_of_recipes([[logs(1.5, 2.1), logs(2.6)], [logs(1.3, 0.9)]], moment=MOMENT)
    assert (alone.sd, alone.degrees) == (pytest.approx(expected.sd), 3)


def test_a_steady_model_is_not_judged_by_an_unsteady_one_once_its_own_a_a_is_known():
    wild = [row("a=fast", 1.0, 1.6, 0.8, 1.3, model="wild"), row("baseline", 1.1, 0.9, 1.12, model="wild")]
    by_itself = Noise([*wild, row("baseline", 1.002, 0.998, 1.001, own=True)]).of(FAST)
    assert by_itself.source == "this model" and by_itself.degrees == 3
    assert by_itself.sd**2 == pytest.approx(doubled(1.002, 0.998, 1.001))
    by_others = Noise([*wild, row("baseline", 1.002, 0.998, own=True)]).of(FAST)
    assert by_others.source == "all models of the last day" and by_others.sd > 20 * by_itself.sd


def test_the_final_of_a_recipe_says_what_it_says_once(planted):
    """Its own processes are pooled where its interval is made; here only how far earlier days were from them counts."""
    noise = Noise([row("a=fast", 1.6, own=True)])
    noise.hear(planted.rounds_of((1.1, 1.3)))
    noise.hear(planted.rounds_of((1.5, 1.4, 1.45, 1.4), SLIM))
    contrast = math.log(1.6) - sum(logs(1.1, 1.3)) / 2
    squares = contrast**2 / (2 * MOMENT + 1 + 1 / 2)
    slim = spread_of([logs(1.5, 1.4, 1.45, 1.4)])
    assert noise.of(FAST).degrees == 1 + slim.degrees
    assert noise.of(FAST).sd ** 2 * 4 == pytest.approx(squares + slim.sd**2 * 3)
    assert noise.of(PLAIN).degrees == 2 + 3, "for another recipe both count whole"
    noise.hear(planted.rounds_of((1.5, 1.4, 1.45, 1.4), SLIM))
    assert noise.of(PLAIN).degrees == 5, "heard again is not known better"


def test_what_failed_or_has_no_number_says_nothing(planted):
    noise, crashed = Noise(), planted.rounds_of((1.2, 1.3), SLIM)
    crashed[1] = replace(crashed[1], outcome=Outcome.CRASHED, measurement=None)
    noise.hear(crashed)
    noise.hear(planted.rounds_of((math.nan, 1.3, 1.3, 1.3, 1.35)))
    assert noise.of(PLAIN).degrees == 3


def test_two_processes_that_agree_by_luck_are_no_surer_than_what_the_device_does_to_equal_models(planted):
    noise = Noise([row("baseline", *(math.exp(random.Random(n).gauss(0, 0.02)) for n in range(12)))])
    lucky, known = planted.rounds_of((1.219, 1.222)), noise.of(FAST)
    alone, held = merge_rounds("x", lucky), join_rounds("x", lucky, noise)
    speed = held.measurement.speed_improvement
    assert speed == combine_rounds([t.measurement.speed_improvement for t in lucky], known, MOMENT)
    assert speed.low < 1.1 and speed.high > 1.3 and alone.measurement.speed_improvement.low > 1.19
    between = held.measurement.environment["between_processes"]
    assert (between["degrees"], between["source"]) == (OTHERS_TRUST, "all models of the last day")
    far = planted.rounds_of((1.0, 1.6))
    wide = join_rounds("x", far, noise).measurement.speed_improvement
    assert wide.low < 1.0 and wide.high > 1.6, "what they show themselves counts"


@pytest.mark.parametrize("moment", [0.0, MOMENT])
def test_a_winner_raced_again_in_other_minutes_lands_inside_with_95_percent(planted, moment):
    """Four finalists, raced in two processes each; the machine is another one in other minutes."""
    rng, inside, trials = random.Random(7), 0, 600
    error = 0.1  # between processes of the same minutes; what moves them all has `MOMENT` of its variance

    shared = error * math.sqrt(MOMENT)

    def measured(recipe, minutes):
        return planted.rounds_of([math.exp(minutes + rng.gauss(0, error)) for _ in range(2)], recipe)

    for _ in range(trials):
        noise, finals = Noise(), {}
        minutes = rng.gauss(0, shared)
        for recipe in (FAST, SLIM, PLAIN, LEAN):
            finals[recipe] = measured(recipe, minutes)
            noise.hear(finals[recipe])
        published = merge_rounds("x", finals[FAST], noise.between(FAST, 2), moment).measurement.speed_improvement
        again = [trial.measurement.speed_improvement.value for trial in measured(FAST, rng.gauss(0, shared))]
        inside += published.low <= math.sqrt(math.prod(again)) <= published.high
    if moment:
        assert inside / trials == pytest.approx(0.95, abs=0.02)
    else:
        assert inside / trials < 0.93, "as if each process had minutes of its own"


def test_the_untouched_model_against_itself_is_judged_by_what_is_known_of_it(search):
    day = [row("baseline", *(math.exp(sign * 0.002) for sign in (1, -1) * 5))]
    _, _, told = search(noise=Noise(day))
    final = next(
        e["trial"] for e in told.of("trial_finished") if e["trial"]["purpose"] == "final" and not e["trial"]["recipe"]
    )
    assert final["measurement"]["environment"]["between_processes"]["degrees"] > OTHERS_TRUST


def test_too_little_noise_is_known_after_one_measurement_against_itself(planted):
    noise = Noise([row("baseline", 1.01)])
    trial = planted.rounds_of((1.2,), purpose=Purpose.SEARCH)[0]
    assert noise.known is None and noise.floor() is None and noise.widened(trial) is trial
    assert "not known yet, from 1 A/A measurement" in noise.sentence()


def test_a_search_trial_is_widened_once_and_by_what_is_known(planted):
    noise = Noise([row("baseline", *(math.exp(random.Random(n).gauss(0, 0.02)) for n in range(9)))])
    trial = planted.rounds_of((1.2,), purpose=Purpose.SEARCH, break_even_calls=7)[0]
    wide = noise.widened(trial)
    inside, shown = trial.measurement.speed_improvement, wide.measurement.speed_improvement
    assert shown == widen(inside, noise.of(FAST), MOMENT) and shown.low < inside.low and shown.high > inside.high
    assert wide.measurement.break_even_calls == 7 and wide.measurement.pairs_ms == trial.measurement.pairs_ms
    assert noise.widened(wide) is wide
    doubtful = noise.widened(planted.rounds_of((1.02,), purpose=Purpose.SEARCH, break_even_calls=7)[0])
    assert doubtful.measurement.speed_improvement.low < 1.0 and doubtful.measurement.break_even_calls is None


def test_a_gain_that_the_device_shows_by_itself_is_no_gain(search, planted):
    effects = {"a": {"on": (1.025, 1.0, 1.0, 1.0)}}
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
    book.add(merge_rounds("x", planted.rounds_of(speeds, Recipe(), Purpose.BASELINE)))
    assert book.noise_floors["speed"] == noise_floor(book.noise.known, 1)
    book.add(merge_rounds("y", planted.rounds_of(speeds, Recipe(), Purpose.FINAL)))
    assert book.noise_floors["speed"] == noise_floor(book.noise.known, 4)


def test_a_recipe_that_every_process_measured_slower_does_not_win_by_its_memory(planted):
    """Between processes the interval reaches beyond 1; each of them by itself says slower."""
    wide = Noise([row("baseline", *(math.exp(random.Random(n).gauss(0, 0.05)) for n in range(12)))]).of(FAST)
    floors = {"speed": 0.01, "memory": 0.01, "accuracy": 0.01}

    def crowned(*speeds):
        rounds = planted.rounds_of(speeds, memory_efficiency=Estimate.exact(2.0))
        final = merge_rounds("x", rounds, wide)
        assert final.measurement.speed_improvement.high > 1.0
        return crown([final], planted.plain_options(), floors)

    refused = crowned(0.90, 0.91)
    assert (
        refused.winner.is_baseline and "every process measured its speed below the bound 1: 0.900 (" in refused.sentence
    )
    assert not crowned(0.90, 1.01).winner.is_baseline

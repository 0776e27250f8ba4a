"""Synergy against closed forms and simulation."""

import math
import random

import numpy as np
import pytest

from hybrid_core.records import Estimate, Outcome, Purpose, Recipe, Trial
from hybrid_core.synergy import Interaction, judge_synergy, ratio_of_estimates, ratio_of_trials, synergies


def pairs_of(speed, rng, pairs=24, noise=0.03, drift=0.05):
    """Timed pairs of a candidate `speed` times as fast, on a machine whose mood changes from block to block."""
    rows = []
    for _ in range(pairs // 2):
        mood = math.exp(rng.gauss(0, drift))
        for _ in range(2):
            base = 10.0 * mood * math.exp(rng.gauss(0, noise))
            rows.append((base, 10.0 * mood / speed * math.exp(rng.gauss(0, noise))))
    return tuple(rows)


def trial_of(measurement, recipe, purpose=Purpose.SEARCH):
    made = Recipe.from_dict(recipe)
    return Trial(f"run:{purpose}:{made.key}", "run", made, purpose, Outcome.OK, measurement=measurement)


@pytest.fixture
def measured(planted_measurement):
    def make(recipe, speed, memory=1.0, seed=0, purpose=Purpose.SEARCH):
        return trial_of(planted_measurement(speed, memory, pairs_of(speed, random.Random(seed))), recipe, purpose)

    return make


A, B, C = {"kernel_fusion": "fold"}, {"quantization": "bfloat16"}, {"memory_pooling": "in_place"}


def test_without_noise_the_synergy_is_the_ratio_over_the_product_exactly():
    measured, product, synergy = ratio_of_trials([(9.0, 1.0)] * 8, [[(2.0, 1.0)] * 8, [(3.0, 1.0)] * 8])
    assert (measured.value, product.value, synergy.value) == pytest.approx((9.0, 6.0, 1.5), abs=1e-9)
    assert (synergy.low, synergy.high) == pytest.approx((1.5, 1.5), abs=1e-9)


def test_estimates_combine_in_quadrature_on_the_log_scale():
    def around(value, half):
        return Estimate(value, value * math.exp(-half), value * math.exp(half))

    _, product, synergy = ratio_of_estimates(around(2.0, 0.03), [around(1.2, 0.04), around(1.5, 0.12)])
    assert product.value == pytest.approx(1.8) and synergy.value == pytest.approx(2.0 / 1.8)
    assert math.log(product.high / product.value) == pytest.approx(math.hypot(0.04, 0.12))
    assert math.log(synergy.value / synergy.low) == pytest.approx(0.13)


@pytest.mark.parametrize("truth", [1.0, 1.25])
def test_the_interval_covers_the_true_synergy_in_about_95_of_100_experiments(truth):
    rng, hits, tries = random.Random(7), 0, 300
    for _ in range(tries):
        whole = pairs_of(1.2 * 1.4 * truth, rng, pairs=16)
        _, _, synergy = ratio_of_trials(whole, [pairs_of(1.2, rng, pairs=16), pairs_of(1.4, rng, pairs=16)])
        hits += synergy.low <= truth <= synergy.high
    # Three standard errors of 300 draws around 95 %; a little too wide is allowed, too narrow is not.
    assert 0.912 <= hits / tries <= 0.995


def test_the_interval_has_the_width_of_three_independent_medians():
    rng, errors = random.Random(3), []
    for _ in range(300):
        trials = [pairs_of(1.0, rng, pairs=16) for _ in range(3)]
        medians = [np.median(np.log([a / b for a, b in t]).reshape(-1, 2).mean(axis=1)) for t in trials]
        errors.append(medians[0] - medians[1] - medians[2])
    _, _, synergy = ratio_of_trials(*((lambda t: (t[0], t[1:]))([pairs_of(1.0, rng, pairs=16) for _ in range(3)])))
    half = math.log(synergy.high / synergy.low) / 2
    assert 0.5 < half / (1.96 * np.std(errors)) < 2.0


def test_every_ensemble_with_measured_parts_gets_a_row_per_objective(measured):
    trials = [
        measured(A, 1.2, 1.1, seed=1),
        measured(B, 1.4, 2.0, seed=2),
        measured(C, 1.0, seed=3),
        measured(A | B, 1.2 * 1.4 * 1.3, 2.2, seed=4),
        measured(A | B | C, 1.2 * 1.4, 2.0, seed=5),
    ]
    found = synergies(trials, {"speed": 0.01, "memory": 0.01})
    assert [(s.key.count("+"), s.objective) for s in found] == [
        (1, "speed"),
        (1, "memory"),
        (2, "speed"),
        (2, "memory"),
    ]
    pair_speed, pair_memory, triple_speed, triple_memory = found
    assert pair_speed.verdict is Interaction.BETTER and pair_speed.synergy.value == pytest.approx(1.3, rel=0.05)
    assert pair_memory.verdict is Interaction.EXPECTED and pair_memory.synergy == Estimate(1.0, 1.0, 1.0)
    assert triple_speed.synergy.low < 1.0 < triple_speed.synergy.high
    assert triple_memory.verdict is Interaction.WORSE
    assert pair_speed.trials == ("run:search:" + found[0].key, trials[0].trial_id, trials[1].trial_id)


def test_an_ensemble_with_an_unmeasured_or_failed_part_gets_no_row(measured):
    failed = Trial("run:search:x", "run", Recipe.from_dict(B), Purpose.SEARCH, Outcome.CRASHED)
    assert synergies([measured(A, 1.2), failed, measured(A | B, 1.5)], {}) == []
    assert synergies([measured(A, 1.2), measured(B, 1.2)], {}) == []


def test_the_final_race_counts_before_the_search(measured):
    trials = [measured(A, 1.2), measured(B, 1.4), measured(A | B, 3.0), measured(A | B, 1.68, purpose=Purpose.FINAL)]
    (speed, _) = synergies(trials, {})
    assert speed.synergy.value == pytest.approx(1.0, rel=0.05) and speed.trials[0].startswith("run:final:")


def test_a_difference_below_the_noise_of_all_trials_together_is_not_called_a_synergy(measured):
    trials = [measured(A, 1.2), measured(B, 1.4), measured(A | B, 1.2 * 1.4 * 1.3)]
    assert synergies(trials, {"speed": 0.5})[0].verdict is Interaction.UNTOLD


@pytest.mark.parametrize(
    ("estimate", "verdict"),
    [
        (Estimate(1.2, 1.1, 1.3), Interaction.BETTER),
        (Estimate(0.8, 0.7, 0.9), Interaction.WORSE),
        (Estimate(1.01, 0.98, 1.04), Interaction.EXPECTED),
        (Estimate(1.01, 0.98, 1.09), Interaction.UNTOLD),
        (Estimate(1.02, 1.01, 1.03), Interaction.EXPECTED),
        (Estimate(math.nan, math.nan, math.nan), Interaction.UNTOLD),
    ],
)
def test_verdicts_follow_the_interval_and_the_noise(estimate, verdict):
    assert judge_synergy(estimate, 0.03) is verdict


@pytest.fixture
def planted_measurement():
    from tests.storage.sample_events import make_measurement

    def make(speed, memory, pairs):
        from dataclasses import replace

        return replace(make_measurement(random.Random(0), speed, memory, 1.0), pairs_ms=pairs)

    return make

"""DAPO's filter: which groups are kept, how often by chance, and what happens when none is."""

from __future__ import annotations

import random

import pytest

from hybrid_core.errors import InvalidInput
from hybrid_core.rl.dapo import PATIENCE_GROUPS, DynamicSampling, group_accuracy, is_informative, probability_kept


def test_accuracy_is_the_share_that_reaches_the_threshold():
    assert group_accuracy([0.1, 0.5, 0.9, 0.5], 0.5) == 0.75


def test_only_mixed_groups_are_informative():
    assert [is_informative(a) for a in (0.0, 0.125, 0.5, 0.875, 1.0)] == [False, True, True, True, False]


def test_an_empty_group_is_refused():
    with pytest.raises(InvalidInput, match="without scores"):
        group_accuracy([], 0.0)


@pytest.mark.parametrize(
    ("p", "size", "published"), [(0.05, 8, 0.337), (0.1, 8, 0.570), (0.25, 8, 0.900), (0.5, 8, 0.992), (0.1, 16, 0.815)]
)
def test_the_chance_of_a_kept_group_is_the_closed_form_and_what_sampling_gives(p, size, published):
    assert probability_kept(p, size) == pytest.approx(published, abs=1e-3)
    rng = random.Random(11)
    draws = 20_000
    kept = sum(
        is_informative(group_accuracy([float(rng.random() < p) for _ in range(size)], 0.5)) for _ in range(draws)
    )
    expected = probability_kept(p, size)
    # Five standard deviations of a binomial share.
    assert abs(kept / draws - expected) < 5 * (expected * (1 - expected) / draws) ** 0.5 + 1e-4


def test_a_single_reward_is_never_informative():
    """An earlier sketch filtered single rewards, whose accuracy is 0 or 1: everything was dropped."""
    assert not any(is_informative(group_accuracy([score], 0.5)) for score in (0.0, 0.5, 1.0))


def test_the_first_threshold_splits_the_measured_scores():
    sampling = DynamicSampling([0.0, 0.1, 0.2, 0.3, 0.4])
    assert sampling.threshold == 0.3


def test_kept_and_dropped_groups_are_counted():
    sampling = DynamicSampling([0.0, 1.0])
    answers = [sampling.admit(scores) for scores in ([0.0, 1.0], [1.0, 1.0], [0.0, 0.0], [1.0, 0.5])]
    assert answers == [True, False, False, True]
    assert (sampling.kept, sampling.dropped, sampling.threshold_moves) == (2, 2, 0)


def test_when_every_group_succeeds_the_threshold_follows_and_groups_are_kept_again():
    sampling = DynamicSampling([0.0, 0.0, 0.1])
    good = [0.5, 0.6, 0.7, 0.8]
    assert [sampling.admit(good) for _ in range(PATIENCE_GROUPS)] == [False] * PATIENCE_GROUPS
    assert sampling.threshold_moves == 1
    assert sampling.admit(good)


def test_when_every_group_fails_the_threshold_comes_down():
    sampling = DynamicSampling([5.0])
    poor = [0.1, 0.1, 0.1, 0.2]
    for _ in range(PATIENCE_GROUPS):
        assert not sampling.admit(poor)
    assert sampling.admit(poor)


def test_identical_scores_are_never_admitted_and_never_raise():
    sampling = DynamicSampling([0.0])
    assert not any(sampling.admit([1.0] * 8) for _ in range(5 * PATIENCE_GROUPS))

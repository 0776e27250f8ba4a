"""How many held-out rows a trial is given: as many as decide while searching, a number fixed before in the final."""

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import MeasureLimits, Purpose
from hybrid_core.search.costs import MOST_QUALITY_ROWS, QUALITY_ROWS, quality_limits


def test_the_search_gives_its_accuracy_bound_to_every_measurement_and_finals_use_all_rows(search):
    options = HybridOptimizationConfig(enable_rl_optimization=False, min_accuracy_preservation=0.97)
    _, landscape, _ = search(budget_s=200, options=options)
    assert {purpose for purpose, _ in landscape.limits} == {Purpose.BASELINE, Purpose.SEARCH, Purpose.FINAL}
    for purpose, limits in landscape.limits:
        expected = 0.97 if purpose is Purpose.SEARCH else None
        assert limits.accuracy_bound == expected


@pytest.mark.parametrize(("seen", "rows"), [(0, 64), (32, 64), (64, 64), (128, 384), (384, 384)])
def test_a_final_has_at_least_the_rows_that_its_recipe_needed_while_searching(seen, rows):
    limits = quality_limits(MeasureLimits(), Purpose.FINAL, 0.98, seen)
    assert limits == MeasureLimits(quality_samples=rows, accuracy_bound=None)
    assert rows >= seen and rows in (QUALITY_ROWS, MOST_QUALITY_ROWS)


def test_the_search_may_use_most_rows_and_the_untouched_model_the_usual_number():
    limits = quality_limits(MeasureLimits(), Purpose.SEARCH, 0.98, 0)
    assert limits == MeasureLimits(quality_samples=MOST_QUALITY_ROWS, accuracy_bound=0.98)
    assert quality_limits(MeasureLimits(), Purpose.BASELINE, 0.98, 0) == MeasureLimits()

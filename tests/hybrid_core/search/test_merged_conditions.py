"""A final of several processes was taken under the conditions of all of them."""

from dataclasses import replace

from hybrid_core.records import Outcome, Purpose, Recipe, Trial
from hybrid_core.search.merging import merge_rounds


def rounds_with(planted, *told):
    """One round for each entry; None is a process that told no conditions."""
    for n, conditions in enumerate(told, 1):
        environment = {} if conditions is None else {"conditions": conditions}
        measurement = replace(planted.make_measurement(1.2), environment=environment)
        recipe = Recipe.from_dict({"a": "fast"})
        yield Trial(f"r{n}", "run", recipe, Purpose.FINAL, Outcome.OK, measurement=measurement, seconds=1.0)


QUIET = {"blocks": 10, "flagged": False, "why": []}
BUSY = {"blocks": 7, "flagged": True, "why": ["other processes used 48% of the processors"]}


def test_one_disturbed_process_flags_the_final_with_its_reason(planted):
    merged = merge_rounds("x", list(rounds_with(planted, QUIET, BUSY, BUSY)))
    conditions = merged.measurement.environment["conditions"]
    assert conditions == {"blocks": 10, "flagged": True, "why": BUSY["why"]}


def test_a_final_of_quiet_processes_is_not_flagged(planted):
    merged = merge_rounds("x", list(rounds_with(planted, QUIET, QUIET)))
    assert merged.measurement.environment["conditions"] == QUIET


def test_where_no_process_told_conditions_there_are_none(planted):
    merged = merge_rounds("x", list(rounds_with(planted, None, None)))
    assert "conditions" not in merged.measurement.environment

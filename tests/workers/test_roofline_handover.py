"""What the untouched model's trial measured of the device reaches the later processes; nothing of a candidate does."""

import json
from types import SimpleNamespace

import pytest

from hybrid_core.records import MeasureLimits, Purpose, Recipe, Subject, Workload
from workers.engines.containment import ROOFLINE_VARIABLE
from workers.run_process import Measurer

SUBJECT = Subject("sequential", "tiny", Workload("forward", "forward", 64))
CANDIDATE = Recipe.from_dict({"memory_pooling": "in_place"})
FOUND = {"work": {"flops": 1}, "ceilings": {"threads": 1}}


def trial(recipe, roofline):
    measurement = None if roofline is None else SimpleNamespace(environment={"roofline": roofline})
    return SimpleNamespace(recipe=recipe, measurement=measurement)


class Engine:
    """Answers with what it was given, and remembers the variables of each process."""

    def __init__(self, answers):
        self._answers, self.variables = answers, []

    def measure(self, request, on_phase, variables):
        self.variables.append(dict(variables))
        return trial(request.recipe, self._answers.get(request.recipe.key))


def measurer_of(engine, replayed=None):
    report = SimpleNamespace(enter_phase=lambda *phase: None)
    return Measurer(
        SimpleNamespace(run_id="r", subject=SUBJECT), engine, report, SimpleNamespace(trials=replayed or {})
    )


def measure(measurer, *recipes):
    for recipe in recipes:
        measurer(recipe, Purpose.SEARCH, MeasureLimits())


def test_later_processes_get_what_the_first_one_found():
    engine = Engine({"baseline": FOUND, CANDIDATE.key: {"forged": True}})
    measure(measurer_of(engine), Recipe(), CANDIDATE, CANDIDATE)
    handed = {ROOFLINE_VARIABLE: json.dumps(FOUND)}
    assert engine.variables == [{}, handed, handed]


@pytest.mark.parametrize("found", [None, {}])
def test_where_the_first_one_found_nothing_each_measures_for_itself(found):
    engine = Engine({"baseline": found})
    measure(measurer_of(engine), Recipe(), CANDIDATE)
    assert engine.variables == [{}, {}]


def test_a_restarted_run_takes_it_from_the_trial_that_it_remembers():
    engine = Engine({})
    measure(measurer_of(engine, {"r:search:baseline": trial(Recipe(), FOUND)}), Recipe(), CANDIDATE)
    assert engine.variables == [{ROOFLINE_VARIABLE: json.dumps(FOUND)}]

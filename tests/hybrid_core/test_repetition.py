"""From what is stored of a trial alone the same order can be made again, and two measurements are compared honestly."""

import dataclasses
import json
from pathlib import Path
from typing import get_type_hints

import pytest

from hybrid_core import repetition
from hybrid_core.errors import InvalidInput
from hybrid_core.records import (
    Estimate,
    MeasureLimits,
    Measurement,
    MeasureRequest,
    Outcome,
    Purpose,
    Quality,
    Recipe,
    Subject,
    Trial,
    Workload,
    to_json,
)
from hybrid_core.repetition import Repetition, compare, environment_differences, judge, moved, with_order

ROUND = Estimate(1.5, 1.4, 1.6)


def measurement(**changes):
    counts = dict.fromkeys(("peak_bytes", "baseline_peak_bytes", "weight_bytes", "baseline_weight_bytes"), 100)
    values = {
        "speed_improvement": ROUND, "memory_efficiency": Estimate.exact(1.25), "accuracy_preservation": ROUND,
        "latency_ms": ROUND, "baseline_latency_ms": ROUND, "resident_bytes": 1, "first_call_s": 0.1,
        "baseline_first_call_s": 0.1, "break_even_calls": None,
        "quality": Quality("digit accuracy", 64, ROUND, ROUND), "max_abs_error": 0.0, "stop_reason": "sure",
        "pairs_ms": ((1.0, 2.0),), "changes": (), "warnings": (), "environment": {"torch": "2"}, **counts,
    }  # fmt: skip
    return Measurement(**{**values, **changes})


def unusual(kind, name):
    """A value that is no default, by the type of the field."""
    values = {str: f"unusual {name}", int: 7, float: 0.75, float | None: 0.91, Purpose: Purpose.FINAL}
    if kind in values:
        return values[kind]
    if kind is Recipe:
        return Recipe.from_dict({"quantization": "int8", "attention_fusion": "sdpa"})
    return kind(**{field.name: unusual(hints(kind)[field.name], field.name) for field in dataclasses.fields(kind)})


def hints(kind):
    return get_type_hints(kind)


def leaves_of(record):
    """Every field of nested records with its value."""
    for field in dataclasses.fields(record):
        value = getattr(record, field.name)
        if dataclasses.is_dataclass(value) and not isinstance(value, Recipe):
            yield from leaves_of(value)
        else:
            yield type(record), field, value


def stored_text(request):
    """The text that the database keeps of a measurement that was ordered by this request."""
    trial = Trial(request.trial_id, request.run_id, request.recipe, request.purpose, Outcome.OK)
    trial = with_order(dataclasses.replace(trial, measurement=measurement()), request)
    return json.dumps(to_json(trial.measurement), allow_nan=False)


def test_the_order_is_rebuilt_from_the_stored_text_in_every_field():
    request = unusual(MeasureRequest, "request")
    for owner, field, value in leaves_of(request):
        is_default = field.default is not dataclasses.MISSING and value == field.default
        assert not is_default, f"{owner.__name__}.{field.name} is its default, so losing it would not be seen"
    rebuilt = Repetition.of("t", json.loads(stored_text(request)))
    assert rebuilt.request == request and list(rebuilt.request.recipe.steps) == list(request.recipe.steps)
    assert rebuilt.processes == 1


def test_all_the_records_of_an_order_are_filled_by_this_test():
    found = {owner for owner, _, _ in leaves_of(unusual(MeasureRequest, "request"))}
    assert found == {MeasureRequest, Subject, Workload, MeasureLimits}


def test_as_many_processes_are_asked_for_as_the_original_had():
    stored = json.loads(stored_text(unusual(MeasureRequest, "request")))
    stored["environment"]["rounds"] = [{"ratio": 1.0}] * 3
    assert Repetition.of("t", stored).processes == 3


@pytest.mark.parametrize(
    ("stored", "sentence"),
    [
        (None, "has no figures to compare with"),
        ({"environment": {"torch": "2"}}, "does not say with which limits"),
        ({"environment": {"request": {"trial_id": "x"}}}, "does not say with which limits"),
    ],
)
def test_what_does_not_hold_an_order_is_refused_with_a_reason(stored, sentence):
    with pytest.raises(InvalidInput, match=sentence):
        Repetition.of("t", stored)


def test_a_failed_trial_stays_as_it_is():
    request = unusual(MeasureRequest, "request")
    failed = Trial("t", "r", Recipe(), Purpose.SEARCH, Outcome.CRASHED)
    assert with_order(failed, request) is failed


def test_the_code_version_changes_with_any_line(tmp_path, monkeypatch):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "code.py").write_text("x = 1\n")
    monkeypatch.setattr(repetition, "__file__", str(tmp_path / "repetition.py"))
    versions = []
    for text in ("x = 1\n", "x = 2\n", "x = 1\n"):
        (tmp_path / "part" / "code.py").write_text(text)
        versions.append(repetition.code_version.__wrapped__())
    assert versions[0] == versions[2] != versions[1] and Path(repetition.__file__).parent == tmp_path


@pytest.mark.parametrize(
    ("original", "repeated", "verdict"),
    [
        (Estimate(2.0, 1.9, 2.1), Estimate(1.9, 1.7, 2.0), "inside"),
        (Estimate(2.0, 1.9, 2.1), Estimate(2.2, 2.1, 2.3), "overlap"),
        (Estimate(2.0, 1.9, 2.1), Estimate(2.2, 2.11, 2.3), "differs"),
        (Estimate.exact(1.25), Estimate.exact(1.26), "inside"),
        (Estimate.exact(1.25), Estimate.exact(1.3), "differs"),
    ],
)
def test_inside_overlapping_and_different_are_told_apart(original, repeated, verdict):
    assert judge(original, repeated) == verdict


def test_one_figure_that_differs_is_a_disagreement_and_an_overlap_is_none():
    overlap = compare(measurement(), measurement(speed_improvement=Estimate(1.7, 1.55, 1.8)))
    assert [finding.verdict for finding in overlap] == ["overlap", "inside", "inside"] and repetition.agrees(overlap)
    differs = compare(measurement(), measurement(accuracy_preservation=Estimate(1.0, 0.9, 1.1)))
    assert not repetition.agrees(differs)
    assert repetition.sentence(differs).endswith("accuracy kept 1.000 differs from 1.400 to 1.600")


def test_what_is_not_the_same_in_the_environment_is_named_once():
    before = {"torch": "1", "threads": 1, "process": {"pid": 1}, "request": {"a": 1}, "gone": True}
    after = {"torch": "2", "threads": 1, "process": {"pid": 2}, "request": {"a": 2}, "new": [1]}
    assert environment_differences(before, after) == {"torch": ("1", "2"), "gone": (True, None), "new": (None, [1])}


def test_of_the_conditions_only_what_disturbed_a_measurement_is_told():
    before = {"conditions": {"flagged": False, "why": [], "blocks": [1, 2]}, "memory": {"cold": 1}}
    after = {"conditions": {"flagged": True, "why": ["foreign processes"], "blocks": [3]}, "memory": {"cold": 2}}
    assert environment_differences(before, after) == {"conditions": ("quiet", "foreign processes")}
    assert environment_differences(before, {**before, "conditions": {"flagged": False, "why": [], "blocks": 5}}) == {}


def test_another_machine_is_recognised_by_what_is_known_of_it():
    then = {"torch": "2.12", "cpu_model": "Xeon", "threads": 2, "device": "cpu"}
    assert moved(then, {"torch": "2.12", "cpu_model": None}) == []
    assert moved(then, {"torch": "2.13", "cpu_model": "EPYC"}) == [
        "the processor was Xeon, now it is EPYC",
        "the version of torch was 2.12, now it is 2.13",
    ]

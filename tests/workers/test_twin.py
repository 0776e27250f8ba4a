"""The untouched model is timed in a process without the start variables, or the trial fails and says so."""

import os
import sys
from pathlib import Path

import pytest

from hybrid_core.errors import MeasurementFailed
from hybrid_core.recipes import start_variables
from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Purpose, Recipe, Subject, Trial, Workload
from hybrid_core.strategies.pooling.allocator import GLIBC_VARIABLES, KEEP_FREED_MEMORY
from hybrid_core.strategies.registry import STRATEGIES
from workers import measure_process, twin_process
from workers.engines.containment import measure_environment
from workers.engines.local import LocalEngine
from workers.exporting import START_VARIABLES, start_variables_in
from workers.protocol import PeerGone
from workers.run_process import Measurer
from workers.twin import Twin

FAKE_TWIN = Path(__file__).parent / "fakes" / "fake_twin.py"
FAKE_MEASURE = Path(__file__).parent / "fakes" / "fake_measure.py"
VARIABLES = {"TEST_START_A": "1", "TEST_START_B": "2"}
KEEP = Recipe.from_dict({"memory_pooling": "keep_freed_memory"})
QUICK = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=1.0, quality_samples=8)
NEEDS_GLIBC = pytest.mark.skipif(KEEP_FREED_MEMORY.unavailable("cpu") is not None, reason="needs glibc")


def request(recipe=KEEP, kind="forward"):
    subject = Subject("sequential", "tiny", Workload("forward", kind, 64))
    return MeasureRequest(f"t:search:{recipe.key}", "t", subject, recipe, Purpose.SEARCH, QUICK)


def fake(tmp_path, behaviour=""):
    return Twin.started(request(), VARIABLES, (sys.executable, str(FAKE_TWIN), behaviour, str(tmp_path / "end")))


def test_the_twin_has_the_environment_without_the_variables_and_leaves_with_its_standard_input(tmp_path, monkeypatch):
    for name, value in VARIABLES.items():
        monkeypatch.setenv(name, value)
    with fake(tmp_path) as twin:
        assert twin.sample(5, 3) == 7.0, "each variable that reached the twin adds a millisecond"
        assert twin.sample(6, 3) == 7.0 and twin.pid() == twin._process.pid
        assert twin.reading() == {"wall_ms": 16.0, "own_ms": 14.0, "waited_ms": 1.0}, "of both samples together"
        assert twin.reading() == {}
        facts = twin.facts()
        assert os.getpgid(twin._process.pid) == os.getpgrp(), "it must be killed with its group"
    assert facts["start_variables"] == VARIABLES and facts["baseline_resident_bytes"] == 3
    assert facts["baseline_process"].endswith("started without TEST_START_A and TEST_START_B")
    assert (tmp_path / "end").read_text() == "left by itself" and twin._process.returncode == 0


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="the system has no processor affinity")
def test_both_processes_run_on_the_same_processors_and_this_one_gets_its_own_back(tmp_path):
    before = os.sched_getaffinity(0)
    with fake(tmp_path) as twin:
        during = os.sched_getaffinity(0)
        assert during == os.sched_getaffinity(twin._process.pid) and len(during) == 1 and during <= before
        assert twin.facts()["processors_shared"] == sorted(during)
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize(
    ("behaviour", "stage", "reason"),
    [
        ("dies at once", "build", "ended with code 3"),
        ("cannot build", "build", "failed: no such model"),
        ("dies later", "timing", "ended with code -9"),
        ("talks nonsense", "timing", "gave no readable answer"),
    ],
)
def test_a_twin_that_fails_is_a_named_failure(tmp_path, behaviour, stage, reason):
    with pytest.raises(MeasurementFailed, match=reason) as caught, fake(tmp_path, behaviour) as twin:
        twin.sample(1, 1)
    assert (caught.value.outcome, caught.value.stage) == (Outcome.CRASHED, stage)
    assert "times the untouched model without the start variables" in str(caught.value)


def test_a_twin_that_cannot_be_started_is_a_named_failure(tmp_path):
    with (
        pytest.raises(MeasurementFailed, match="could not be started"),
        Twin.started(request(), VARIABLES, (str(tmp_path / "missing"),)),
    ):
        pass


def test_a_trial_whose_twin_is_lost_fails_and_is_never_measured_without_it(tmp_path, monkeypatch):
    lost = fake(tmp_path, "cannot build")
    monkeypatch.setattr(measure_process.Twin, "started", lambda request, variables: lost)
    trial = measure_process.measure_from_registry(request(), lambda phase: None)
    assert (trial.outcome, trial.stage, trial.measurement) == (Outcome.CRASHED, "build", None)
    assert trial.reason.endswith("failed: no such model")


def test_the_worker_passes_variables_exactly_where_a_recipe_has_them(tmp_path):
    asked = []

    class Engine:
        def measure(self, request, on_phase, variables):
            asked.append((request.recipe.key, dict(variables)))
            return Trial(request.trial_id, request.run_id, request.recipe, request.purpose, Outcome.CRASHED)

    class Order:
        run_id, subject = "r", request().subject

    class Silent:
        trials = {}

        def enter_phase(self, *phase):
            pass

    measurer = Measurer(Order(), Engine(), Silent(), Silent())
    measurer.start_variables = start_variables
    for recipe in (Recipe(), Recipe.from_dict({"memory_pooling": "in_place"}), KEEP):
        measurer(recipe, Purpose.SEARCH, QUICK)
    assert asked == [("baseline", {}), ("memory_pooling=in_place", {}), (KEEP.key, dict(GLIBC_VARIABLES))]


def test_the_environment_carries_the_variables_and_they_replace_nothing_of_ours(tmp_path):
    plain = measure_environment(tmp_path / "scratch", 1, "cookie")
    extended = measure_environment(tmp_path / "scratch", 1, "cookie", {**VARIABLES, "OMP_NUM_THREADS": "64"})
    assert extended == {**plain, **VARIABLES}


def test_a_measure_process_starts_with_the_variables(tmp_path):
    program = "import os, sys; print(sorted(v for v in os.environ if v.startswith('TEST_START_')), flush=True)"
    engine = LocalEngine((sys.executable, "-c", program), tmp_path / "scratch", tmp_path / "log")
    assert engine.measure(request(), variables=VARIABLES).log_tail == "['TEST_START_A', 'TEST_START_B']\n"
    assert engine.measure(request()).log_tail == "[]\n"


def test_the_serving_side_tells_a_model_that_cannot_be_built_as_a_sentence():
    questions, told = iter([{"request": measure_process.to_json(request(kind="no_such_kind"))}]), []

    def ask():
        try:
            return next(questions)
        except StopIteration:
            raise PeerGone("over") from None

    twin_process.serve(ask, told.append)
    assert len(told) == 1 and told[0]["failed"].startswith("failed: sequential cannot run")


@NEEDS_GLIBC
def test_a_real_trial_is_timed_against_a_process_without_the_variables(tmp_path):
    command = (sys.executable, "-m", "workers.measure_process")
    engine, phases = LocalEngine(command, tmp_path / "scratch", tmp_path / "log"), []
    trial = engine.measure(request(), phases.append, dict(GLIBC_VARIABLES))
    assert trial.outcome is Outcome.OK, trial.reason + trial.log_tail
    facts = trial.measurement.environment
    assert facts["start_variables"] == dict(GLIBC_VARIABLES) and facts["baseline_resident_bytes"] > 0
    assert facts["baseline_process"].startswith("the untouched model was timed in a process of its own")
    assert trial.measurement.max_abs_error == 0.0 and len(trial.measurement.pairs_ms) == 4
    assert "timing" in phases and "page" in " ".join(trial.measurement.changes)
    assert 0 < facts["conditions"]["own_share"] <= 1 and facts["conditions"]["blocks"] == 2


def test_an_export_starts_with_the_variables_that_settings_ask_for_and_with_no_others():
    asked = {name: "1" for name in START_VARIABLES} | {"LD_PRELOAD": "evil.so", "PATH": "elsewhere"}
    assert start_variables_in({"environment": {"start_variables": asked}}) == {name: "1" for name in START_VARIABLES}
    for strange in (None, {}, {"environment": None}, {"environment": {"start_variables": ["LD_PRELOAD"]}}):
        assert start_variables_in(strange) == {}
    assert start_variables_in({"environment": {"start_variables": {START_VARIABLES[0]: 3}}}) == {}
    declared = {name for family in STRATEGIES for setting in family.settings for name, _ in setting.start_variables}
    assert declared == set(START_VARIABLES)

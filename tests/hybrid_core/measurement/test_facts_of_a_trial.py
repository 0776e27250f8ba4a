"""A real trial carries its roofline, memory and compile facts, and one that is faster than physics is refused."""

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from hybrid_core.evaluation import Toolbox, case_from_module, evaluate, registry_toolbox
from hybrid_core.measurement import procedure, roofline, timed_checks
from hybrid_core.measurement.ceilings import Ceilings
from hybrid_core.measurement.process_memory import ResidentSet
from hybrid_core.measurement.roofline import Roofline
from hybrid_core.measurement.work import Work
from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Purpose, Recipe, Subject, Workload
from hybrid_core.strategies.base import Applied

QUICK = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=2.0, quality_samples=8)
SUBJECT = Subject("fake", "tiny", Workload("forward", "forward", 4))
CEILINGS = Ceilings("cpu", 1, {"float32": 1e11}, {1 << 20: 5e10})


@pytest.fixture(autouse=True)
def quiet_machine(monkeypatch):
    monkeypatch.setattr(procedure, "refuse_unstable", lambda *measured: None)
    monkeypatch.setattr(roofline, "ceilings_of", lambda device, threads: CEILINGS)
    yield
    roofline.take_over("")


def trial_of(recipe, toolbox, on_phase=lambda name: None):
    model = nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 8)).eval()
    request = MeasureRequest("t", "r", SUBJECT, recipe, Purpose.SEARCH, QUICK)
    return evaluate(case_from_module(model, (torch.randn(4, 8),)), request, on_phase=on_phase, toolbox=toolbox)


def untouched(model, recipe, situation):
    return Applied(model, ("nothing, for the test",))


HONEST = Toolbox(untouched, is_exact=lambda step: True)
RECIPE = Recipe.from_dict({"memory_pooling": "fake"})


def test_the_facts_of_a_trial_are_plain_json_with_both_models():
    trial = trial_of(RECIPE, HONEST)
    assert trial.outcome is Outcome.OK, trial.reason
    facts = json.loads(json.dumps(trial.measurement.environment, allow_nan=False))
    assert facts["roofline"]["flops"] == 2 * 4 * 8 * 32 * 2
    assert facts["roofline"]["bytes"] == 2 * 8 * 32 / 2 + 32 / 2 + 8 / 2 + 4 * 8 * 4  # weights in 4 bits, the answer
    assert 0 < facts["roofline"]["candidate_share"] < 1 and facts["roofline"]["bound_ms"] > 0
    assert facts["compile"]["timed"] == {"graphs": 0, "breaks": 0, "given_up": 0}
    assert set(facts["memory"]["cold"]) == set(facts["memory"]["warm"]) == {"baseline", "candidate"}
    assert facts["memory"]["resident_peak_bytes"] <= trial.measurement.resident_bytes
    if ResidentSet().begin_stretch():
        assert facts["memory"]["cold"]["candidate"]["resident_growth_bytes"] >= 0
    assert Roofline.from_json(facts["roofline"]).ceilings == CEILINGS


def test_a_trial_faster_than_physics_is_wrong_while_timed(monkeypatch):
    line = Roofline(Work(10**9, 10**9, 0, 0), CEILINGS)
    roofline.take_over(json.dumps(line.to_json()))
    times = iter((50.0, 0.001))
    monkeypatch.setattr(timed_checks, "median", lambda measured: next(times))
    trial = trial_of(RECIPE, HONEST)
    assert (trial.outcome, trial.stage) == (Outcome.WRONG, "timing")
    assert trial.reason.startswith("0.001 ms per call would be 1e+03 Tflop/s where this device reached 100 Gflop/s")


def test_remembered_answers_are_no_help_while_timed():
    """The opt-in cache may skip work where a question comes again; in the timed phase none does."""
    real, models, hits = registry_toolbox(), [], {}

    def apply(model, recipe, situation):
        applied = real.apply(model, recipe, situation)
        models.append(applied.model)
        return applied

    def note(phase):
        if models:
            hits[phase] = models[0].answer_cache.hits

    toolbox = Toolbox(apply, real.is_exact)
    trial = trial_of(Recipe.from_dict({"memory_pooling": "activation_cache"}), toolbox, note)
    assert trial.outcome is Outcome.OK, trial.reason
    assert hits["warmup"] == hits["timing"] == hits["memory"]
    assert not any("part of" in warning for warning in trial.measurement.warnings)


class CountsItsCalls(nn.Module):
    """Answers with how often it was asked."""

    def __init__(self):
        super().__init__()
        self.layer, self.calls = nn.Linear(8, 8), 0

    def forward(self, x):
        self.calls += 1
        return self.layer(x) * 0 + self.calls


@pytest.mark.parametrize("is_handed_over", [False, True])
def test_counting_work_leaves_the_two_models_in_step(is_handed_over):
    if is_handed_over:
        roofline.take_over(json.dumps(Roofline(Work(1, 1, 0, 0), CEILINGS).to_json()))
    built, asked = [], []

    def build():
        built.append(CountsItsCalls().eval())
        return built[-1]

    def look(model, recipe, situation):
        asked.append(built[0].calls)
        return Applied(model, ("nothing, for the test",))

    case = replace(case_from_module(CountsItsCalls().eval(), (torch.randn(4, 8),)), build=build)
    request = MeasureRequest("t", "r", SUBJECT, RECIPE, Purpose.SEARCH, QUICK)
    evaluate(case, request, toolbox=Toolbox(look, is_exact=lambda step: True))
    assert asked == [1]  # the first call, and none for counting


def test_the_untouched_copy_of_another_process_goes_through_the_same(monkeypatch):
    asked = []
    monkeypatch.setattr(roofline, "ceilings_of", lambda device, threads: asked.append(threads) or CEILINGS)
    case = case_from_module(nn.Linear(8, 8).eval(), (torch.randn(4, 8),))
    procedure.prepare_untouched(case, QUICK)
    assert asked == [torch.get_num_threads()]

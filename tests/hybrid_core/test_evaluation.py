"""One candidate from start to end: its phases, its figures, and a word for every failure."""

import json
import time

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, MeasurementFailed, StrategyUnsupported
from hybrid_core.evaluation import PHASES, evaluate
from hybrid_core.measurement import procedure
from hybrid_core.measurement.case import Case
from hybrid_core.records import MeasureLimits, Outcome, Recipe, Trial, to_json
from tests.hybrid_core.measurement.trying import BATCH, WIDTH, Honest, Wrapped, case_of, request_for, try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


class SameByAnotherOrder(Wrapped):
    def answer(self, x):
        return torch.cat([self.honest(x[:3]), self.honest(x[3:])])


class KeepsACopyOfItsWeights(Wrapped):
    def __init__(self, honest):
        super().__init__(honest)
        self.copy = honest.layers[0].weight.detach().clone()

    def answer(self, x):
        inner = torch.tanh_(x @ self.copy.T + self.honest.layers[0].bias)
        return self.honest.layers[2](inner)


def test_an_honest_candidate_in_another_order_of_sums_passes():
    trial = try_candidate(SameByAnotherOrder)
    assert trial.outcome is Outcome.OK, trial.reason
    assert trial.measurement.quality.value.value > 0.9999


def test_bytes_a_candidate_keeps_in_a_plain_attribute_are_counted():
    trial = try_candidate(KeepsACopyOfItsWeights)
    assert trial.outcome is Outcome.OK, trial.reason
    measured = trial.measurement
    assert measured.weight_bytes - measured.baseline_weight_bytes == 64 * WIDTH * 4
    assert measured.memory_efficiency.value == measured.baseline_peak_bytes / measured.peak_bytes


def test_int8_passes_as_inexact_with_its_error_recorded_and_its_memory_counted():
    def quantize(model):
        return torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)

    trial = try_candidate(quantize, exact=False)
    assert trial.outcome is Outcome.OK, trial.reason
    measured = trial.measurement
    assert 1e-4 < measured.quality.details["workload_relative_error"] < 0.2
    assert measured.weight_bytes < 0.5 * measured.baseline_weight_bytes
    assert try_candidate(quantize, exact=True).outcome is Outcome.WRONG


def test_the_empty_recipe_is_the_untouched_model_in_everything_but_time():
    """Its time ratio is noise around 1, and no test may hang on a time: `make bench-truth` is to count the ties."""
    limits = MeasureLimits(min_pairs=24, max_pairs=24, max_timed_s=1.0, quality_samples=8)
    trial = evaluate(case_of(), request_for(Recipe(), limits))
    assert trial.outcome is Outcome.OK, trial.reason
    measured = trial.measurement
    assert measured.speed_improvement.low <= measured.speed_improvement.value <= measured.speed_improvement.high
    assert measured.memory_efficiency.value == 1.0
    assert measured.accuracy_preservation.value == 1.0 and measured.max_abs_error == 0.0
    assert measured.changes == () and measured.break_even_calls is None


def test_what_must_be_earned_back_includes_the_transformation(monkeypatch):
    prepared = []
    monkeypatch.setattr(procedure, "break_even_calls", lambda seconds, *rest: prepared.append(seconds))
    trial = try_candidate(lambda model: time.sleep(0.3))
    assert trial.outcome is Outcome.OK, trial.reason
    assert prepared[0] >= 0.3 + trial.measurement.first_call_s


def test_the_phases_come_in_their_order_and_are_timed():
    phases: list[str] = []
    trial = try_candidate(SameByAnotherOrder, phases=phases)
    assert tuple(phases) == PHASES
    assert tuple(trial.phases_s) == PHASES and sum(trial.phases_s.values()) == pytest.approx(trial.seconds, abs=0.05)


def test_a_trial_survives_json():
    trial = try_candidate(SameByAnotherOrder)
    text = json.dumps(to_json(trial), allow_nan=False)
    assert Trial.from_json(json.loads(text)) == Trial.from_json(json.loads(json.dumps(to_json(trial))))
    assert Trial.from_json(json.loads(text)).measurement.pairs_ms == trial.measurement.pairs_ms


def raising(error):
    def change(model):
        raise error

    return change


FAILURES = [
    (StrategyUnsupported("the model has no attention"), Outcome.UNSUPPORTED, "the model has no attention"),
    (InvalidInput("group_size=3 is not allowed; use 4"), Outcome.INVALID_INPUT, "group_size=3 is not allowed; use 4"),
    (MemoryError(), Outcome.OUT_OF_MEMORY, "ran out of memory: no message"),
    (torch.OutOfMemoryError("CUDA out of memory. Tried"), Outcome.OUT_OF_MEMORY, "ran out of memory: CUDA out of"),
    (RuntimeError("[enforce] DefaultCPUAllocator: can't allocate memory: you tried"), Outcome.OUT_OF_MEMORY, "can't"),
    (ValueError("first line\nsecond line"), Outcome.CRASHED, "ValueError: first line"),
    (MeasurementFailed("lost it", outcome="device_lost", stage="timing"), Outcome.DEVICE_LOST, "lost it"),
    (RecursionError("too deep"), Outcome.CRASHED, "RecursionError: too deep"),
]


@pytest.mark.parametrize(("error", "outcome", "reason"), FAILURES, ids=lambda value: getattr(value, "value", None))
def test_every_exception_becomes_a_trial_with_its_name(error, outcome, reason):
    trial = try_candidate(raising(error))
    assert trial.outcome is outcome and reason in trial.reason and "\n" not in trial.reason
    assert trial.stage == getattr(error, "stage", "transform")
    assert type(error).__name__ in trial.log_tail and trial.measurement is None


def test_out_of_memory_is_recognised_inside_a_compiler_error():
    def change(model):
        try:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
        except RuntimeError as error:
            raise ValueError("backend failed") from error

    assert try_candidate(change).outcome is Outcome.OUT_OF_MEMORY


def test_a_crash_in_the_first_call_names_that_phase():
    class Breaks(Wrapped):
        def answer(self, x):
            raise IndexError("no such kernel")

    trial = try_candidate(Breaks)
    assert (trial.outcome, trial.stage, trial.reason) == (Outcome.CRASHED, "compile", "IndexError: no such kernel")


def test_a_recipe_that_reaches_the_untouched_model_is_refused():
    shared = Honest().eval()
    case = Case(**{**vars(case_of()), "build": lambda: shared})

    def change(model):
        with torch.no_grad():
            model.layers[0].weight.mul_(1.00001)

    trial = try_candidate(change, case=case)
    assert (trial.outcome, trial.stage) == (Outcome.WRONG, "transform")
    assert trial.reason == "it changed the weights of the untouched model"


def test_a_compile_setting_without_a_compiled_graph_is_no_win():
    trial = try_candidate(SameByAnotherOrder, recipe=Recipe.from_dict({"kernel_fusion": "compile"}))
    assert (trial.outcome, trial.stage) == (Outcome.UNSUPPORTED, "compile")
    assert "no compiled graph" in trial.reason


def test_a_really_compiled_graph_is_counted():
    def compiled(model):
        torch._dynamo.reset()
        return torch.compile(model, backend="eager")

    trial = try_candidate(compiled, recipe=Recipe.from_dict({"kernel_fusion": "compile"}))
    assert trial.outcome is Outcome.OK, trial.reason
    assert trial.measurement.environment["compiled_graphs"] == 1
    assert not any("recompiled" in warning for warning in trial.measurement.warnings)


def test_graph_breaks_are_counted_in_the_warnings():
    class Breaking(Honest):
        def forward(self, x):
            x = self.layers[0](x)
            torch._dynamo.graph_break()
            return self.layers[2](torch.tanh(x))

    def compiled(model):
        torch._dynamo.reset()
        return torch.compile(model, backend="eager")

    recipe = Recipe.from_dict({"kernel_fusion": "compile"})
    trial = try_candidate(compiled, recipe=recipe, case=case_of(Breaking))
    assert trial.outcome is Outcome.OK, trial.reason
    assert any("graph breaks" in warning for warning in trial.measurement.warnings)


def test_an_unknown_setting_is_invalid_input():
    trial = evaluate(case_of(), request_for(Recipe.from_dict({"quantization": "no_such_setting"})))
    assert trial.outcome is Outcome.INVALID_INPUT and "no_such_setting" in trial.reason


def test_what_the_maker_of_inputs_remembers_is_no_memory_of_either_model():
    remembered = []

    def remembering(generator):
        remembered.append(torch.randn(100_000, generator=generator))
        return (remembered[-1][: BATCH * WIDTH].view(BATCH, WIDTH).clone(),)

    case = Case(**{**vars(case_of()), "make_inputs": remembering})
    trial = evaluate(case, request_for(Recipe()))
    assert len(remembered) > 10
    assert trial.measurement.memory_efficiency.value == 1.0
    assert trial.measurement.weight_bytes == trial.measurement.baseline_weight_bytes


class KeepsItsInputs(Wrapped):
    def __init__(self, honest):
        super().__init__(honest)
        self.seen = []

    def forward(self, x):
        self.seen.append(x)
        return self.honest(x)


def test_inputs_that_a_candidate_keeps_are_its_own_memory():
    trial = try_candidate(KeepsItsInputs)
    measurement = trial.measurement
    assert measurement.weight_bytes >= measurement.baseline_weight_bytes + 4 * BATCH * WIDTH * 4

"""One candidate from start to end: cheats are refused by name, honest candidates pass, and every failure has a word."""

import gc
import json
import threading
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, MeasurementFailed, StrategyUnsupported
from hybrid_core.evaluation import PHASES, Toolbox, case_from_module, case_from_registry, evaluate, random_like
from hybrid_core.measurement import procedure
from hybrid_core.measurement.case import Case
from hybrid_core.models.registry import get_entry
from hybrid_core.records import (
    MeasureLimits,
    MeasureRequest,
    Outcome,
    Purpose,
    Recipe,
    Subject,
    Trial,
    Workload,
    to_json,
)
from hybrid_core.strategies.base import Applied

BATCH, WIDTH = 8, 16
QUICK = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=2.0, quality_samples=8)
SUBJECT = Subject("fake", "tiny", Workload("forward", "forward", BATCH))
RECIPE = Recipe.from_dict({"quantization": "fake"})


class Honest(nn.Module):
    """Sixteen numbers in, sixteen out; what the cheats pretend to compute."""

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(WIDTH, 64), nn.Tanh(), nn.Linear(64, WIDTH))

    def forward(self, x):
        return self.layers(x)


def case_of(build=Honest, batch=BATCH) -> Case:
    return Case(
        build=lambda: build().eval(),
        make_inputs=lambda generator: (torch.randn(batch, WIDTH, generator=generator),),
        call=lambda model, inputs: model(*inputs),
        task=None,
        workload=SUBJECT.workload,
        device=torch.device("cpu"),
        threads=1,
        seed=3,
    )


def request_for(recipe=RECIPE, limits=QUICK) -> MeasureRequest:
    return MeasureRequest("run:search:" + recipe.key, "run", SUBJECT, recipe, Purpose.SEARCH, limits)


def try_candidate(change, *, exact=True, case=None, recipe=RECIPE, limits=QUICK, phases=None) -> Trial:
    """Evaluate a recipe whose whole effect is `change(model)`; a returned module replaces the model."""

    def apply(model, steps, situation):
        changed = change(model)
        return Applied(model if changed is None else changed, ("changed by the test",))

    toolbox = Toolbox(apply, lambda step: exact, lambda step: step.setting.startswith("compile"))
    enter = (lambda name: None) if phases is None else phases.append
    return evaluate(case or case_of(), request_for(recipe, limits), on_phase=enter, toolbox=toolbox)


class Wrapped(nn.Module):
    """A candidate around the honest model."""

    def __init__(self, honest):
        super().__init__()
        self.honest, self.calls = honest, 0
        self.eval()

    def forward(self, x):
        self.calls += 1
        return self.answer(x)


class Constant(Wrapped):
    def answer(self, x):
        if self.calls == 1:
            self.first = self.honest(x)
        return self.first


class Zeros(Wrapped):
    def answer(self, x):
        return torch.zeros_like(x)


class ReturnsItsInput(Wrapped):
    def answer(self, x):
        return x


class CachedByIdentity(Wrapped):
    seen: dict = {}

    def answer(self, x):
        if id(x) not in self.seen:
            self.seen[id(x)] = (x, self.honest(x))  # keeping x alive makes its id unique
        return self.seen[id(x)][1]


class CachedByAddress(Wrapped):
    seen: dict = {}

    def answer(self, x):
        if x.data_ptr() not in self.seen:
            self.seen[x.data_ptr()] = (x, self.honest(x))
        return self.seen[x.data_ptr()][1]


class SharedBuffer(Wrapped):
    def answer(self, x):
        if self.calls == 1:
            self.buffer = torch.empty_like(x)
        return self.buffer.copy_(self.honest(x))


class FilledLater(Wrapped):
    """Hands out a buffer at once; the work of the last call is done when the next one comes."""

    def answer(self, x):
        if self.calls > 1:
            self.given.copy_(self.honest(self.question))
        self.given, self.question = torch.zeros_like(x), x.clone()
        return self.given


class FilledByAThread(Wrapped):
    def answer(self, x):
        given, question = torch.zeros_like(x), x.clone()

        def fill():
            time.sleep(0.005)
            with torch.inference_mode():
                given.copy_(self.honest(question))

        threading.Thread(target=fill).start()
        return given


class SkipsTheTail(Wrapped):
    def answer(self, x):
        return torch.cat([self.honest(x[:-1]), torch.zeros(1, x.shape[1])])


class NanOnce(Wrapped):
    def answer(self, x):
        return self.honest(x) * (float("nan") if self.calls == 3 else 1.0)


class OtherDtype(Wrapped):
    def answer(self, x):
        return self.honest(x).double()


class OtherShape(Wrapped):
    def answer(self, x):
        return self.honest(x)[:, :-1]


class HalfInDisguise(Wrapped):
    def answer(self, x):
        return self.honest.half()(x.half()).float()


class ChangesItsInput(Wrapped):
    def answer(self, x):
        result = self.honest(x)
        x.zero_()
        return result


class WrongOnlyWhileTimed(Wrapped):
    def answer(self, x):
        return self.honest(x) if gc.isenabled() else torch.zeros_like(x)


class NanOnlyWhileTimed(Wrapped):
    def answer(self, x):
        return self.honest(x) * (1.0 if gc.isenabled() else float("nan"))


class ReturnsNone(Wrapped):
    def answer(self, x):
        self.honest(x)


class ReturnsATuple(Wrapped):
    def answer(self, x):
        return (self.honest(x),)


class ComputesLater(Wrapped):
    class Lazy(torch.Tensor):
        pass

    def answer(self, x):
        return self.honest(x).as_subclass(self.Lazy)


class TakesMoreThreads(Wrapped):
    def answer(self, x):
        torch.set_num_threads(2)
        return self.honest(x)


class TakesMoreThreadsLater(Wrapped):
    def answer(self, x):
        if self.calls > 1:
            torch.set_num_threads(2)
        return self.honest(x)


class ReseedsEverybody(Wrapped):
    def answer(self, x):
        torch.manual_seed(0)
        return self.honest(x)


class DrawsRandomNumbers(Wrapped):
    def answer(self, x):
        torch.rand(1)
        return self.honest(x)


class Training(Wrapped):
    def __init__(self, honest):
        super().__init__(honest)
        self.train()

    def answer(self, x):
        return self.honest(x)


def change_default_dtype(model):
    torch.set_default_dtype(torch.float64)


CHEATS = [
    (Constant, "relative error"),
    (Zeros, "relative error 1.0e+00"),
    (ReturnsItsInput, "relative error"),
    (CachedByIdentity, "relative error"),
    (CachedByAddress, "relative error"),
    (SharedBuffer, "an earlier call changed when the model was called again"),
    (FilledLater, "relative error 1.0e+00"),
    (FilledByAThread, "relative error 1.0e+00"),
    (SkipsTheTail, "relative error"),
    (NanOnce, "NaN at output"),
    (OtherDtype, "dtype float64, the baseline's is float32"),
    (OtherShape, "shape [8, 15], the baseline's is [8, 16]"),
    (HalfInDisguise, "every step says that only rounding changes"),
    (ChangesItsInput, "it changed input[0], which belongs to the caller"),
    (WrongOnlyWhileTimed, "relative error 1.0e+00"),
    (NanOnlyWhileTimed, "NaN at output"),
    (ReturnsNone, "output is None where the baseline gives a Tensor"),
    (ReturnsATuple, "output is a tuple of 1 where the baseline gives a Tensor"),
    (ComputesLater, "output is a Lazy float32[8, 16]"),
    (TakesMoreThreads, "it changed the number of threads from 1 to 2"),
    (TakesMoreThreadsLater, "it changed the number of threads from 1 to 2"),
    (ReseedsEverybody, "it changed the random state of torch"),
    (DrawsRandomNumbers, "it changed the random state of torch"),
    (Training, "the model is in train mode"),
    (change_default_dtype, "it changed the default dtype from torch.float32 to torch.float64"),
]


@pytest.mark.parametrize(("cheat", "words"), CHEATS, ids=lambda value: getattr(value, "__name__", ""))
def test_a_cheat_is_refused_by_name(cheat, words):
    trial = try_candidate(cheat)
    assert trial.outcome is Outcome.WRONG and words in trial.reason
    assert trial.measurement is None and trial.stage


LOOSE_CHEATS = [Constant, Zeros, ReturnsItsInput, CachedByIdentity, FilledLater, SkipsTheTail, NanOnlyWhileTimed]


@pytest.mark.parametrize("cheat", LOOSE_CHEATS, ids=lambda cheat: cheat.__name__)
def test_a_cheat_is_refused_also_where_precision_may_be_lost(cheat):
    assert try_candidate(cheat, exact=False).outcome is Outcome.WRONG


@pytest.mark.parametrize("cheat", [WrongOnlyWhileTimed, NanOnlyWhileTimed])
def test_what_is_wrong_only_while_timed_is_caught_while_timed(cheat):
    assert try_candidate(cheat).stage in ("timing", "warmup")


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


def test_a_model_that_is_noisy_itself_gives_an_honest_copy_its_tolerance():
    class Noisy(Honest):
        def forward(self, x):
            return super().forward(x) * (1 + 1e-3 * torch.randn(()))

    trial = try_candidate(lambda model: None, case=case_of(Noisy))
    assert trial.outcome is Outcome.OK, trial.reason
    assert any("differs from itself" in warning for warning in trial.measurement.warnings)


def test_the_empty_recipe_is_the_untouched_model_in_everything_but_time():
    """Its time ratio is noise around 1, and no test may hang on a time: `make bench-truth` is to count the ties."""
    limits = MeasureLimits(min_pairs=24, max_pairs=80, max_timed_s=4.0, quality_samples=8)
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


def test_a_baseline_that_gives_nan_cannot_be_compared():
    class Broken(Honest):
        def forward(self, x):
            return super().forward(x) / 0

    trial = try_candidate(lambda model: None, case=case_of(Broken))
    assert trial.outcome is Outcome.INVALID_INPUT and "the untouched model itself gives infinity" in trial.reason


def test_a_baseline_in_train_mode_is_named():
    case = case_of()
    trained = Case(**{**vars(case), "build": lambda: Honest().train()})
    trial = try_candidate(lambda model: None, case=trained)
    assert trial.outcome is Outcome.INVALID_INPUT and "train mode" in trial.reason and "eval()" in trial.reason


def test_a_dropout_left_in_train_mode_is_named():
    class Forgotten(Honest):
        def eval(self):
            super().eval()
            self.drop = nn.Dropout(0.0).train()
            return self

    trial = try_candidate(lambda model: None, case=case_of(Forgotten))
    assert "'drop' (Dropout) is in train mode" in trial.reason


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


def test_the_process_is_left_as_it_was():
    before = (torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state())
    for cheat in (TakesMoreThreads, change_default_dtype, ReseedsEverybody):
        try_candidate(cheat)
    assert torch.get_num_threads() == before[0] and torch.get_default_dtype() == before[1]
    assert torch.equal(torch.get_rng_state(), before[2])


def test_an_unknown_setting_is_invalid_input():
    trial = evaluate(case_of(), request_for(Recipe.from_dict({"quantization": "no_such_setting"})))
    assert trial.outcome is Outcome.INVALID_INPUT and "no_such_setting" in trial.reason


def test_a_case_from_a_module_never_touches_the_module():
    module = Honest().eval()
    weight = module.layers[0].weight.detach().clone()
    case = case_from_module(module, (torch.randn(4, WIDTH),), seed=1)

    def change(model):
        with torch.no_grad():
            model.layers[0].weight.zero_()

    assert try_candidate(change, case=case).outcome is Outcome.WRONG
    assert torch.equal(module.layers[0].weight, weight)
    assert case.workload.batch == 4


@pytest.mark.parametrize(
    "example",
    [
        torch.randn(200, 50) * 3 + 7,
        torch.randint(5, 90, (300, 20)),
        torch.rand(400, 5) < 0.2,
        torch.randn(100, 30, dtype=torch.complex64),
        torch.full((4,), 2.5),
        torch.zeros(0, 3),
    ],
    ids=["float", "int", "bool", "complex", "constant", "empty"],
)
def test_fresh_inputs_look_like_the_example(example):
    fresh = random_like(example, torch.Generator().manual_seed(0))
    assert (fresh.shape, fresh.dtype) == (example.shape, example.dtype)
    if example.dtype == torch.int64:
        assert (int(fresh.min()), int(fresh.max())) == (int(example.min()), int(example.max()))
    elif example.numel() and not example.is_complex():
        assert float(fresh.double().mean()) == pytest.approx(float(example.double().mean()), abs=0.15)
        assert float(fresh.double().std()) == pytest.approx(float(example.double().std()), abs=0.15)


def test_example_inputs_without_a_tensor_are_refused():
    with pytest.raises(InvalidInput, match="as a tuple"):
        case_from_module(Honest(), [torch.zeros(2, WIDTH)])


def registry_subject(**changes) -> Subject:
    workload = get_entry("sequential").workloads("tiny")[0]
    return Subject(**{"model": "sequential", "size": "tiny", "workload": workload, "threads": 1, "seed": 0, **changes})


def test_a_registry_model_is_measured_end_to_end():
    subject = registry_subject()
    request = MeasureRequest("t", "r", subject, Recipe(), Purpose.BASELINE, QUICK)
    trial = evaluate(case_from_registry(subject), request)
    assert trial.outcome is Outcome.OK, trial.reason
    parameters = 128 * 256 + 256 + 2 * 256 + 256 * 64 + 64
    assert trial.measurement.weight_bytes == trial.measurement.baseline_weight_bytes == 4 * parameters


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"model": "nobody"}, "nobody"),
        ({"size": "enormous"}, "enormous"),
        ({"device": "cuda:7"}, "device 'cuda:7' is not on this machine"),
        ({"workload": Workload("decode", "decode", 1)}, "cannot run 'decode, batch 1'"),
    ],
)
def test_a_subject_that_does_not_exist_is_refused(changes, words):
    with pytest.raises(InvalidInput, match=words.replace("(", r"\(")):
        case_from_registry(registry_subject(**changes))


def test_the_example_of_the_documentation_runs():
    text = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text()
    code = text.split("```python\n")[1].split("```")[0].replace("int8_dynamic", "no_such_setting")
    names = {"model": Honest(), "example_tensor": torch.randn(4, WIDTH)}
    exec(code, names)
    assert names["trial"].outcome is Outcome.INVALID_INPUT and "no_such_setting" in names["trial"].reason


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

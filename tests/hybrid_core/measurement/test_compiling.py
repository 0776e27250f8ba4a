"""Compiling is counted apart for the first call, the warm-up and the timed phase, and a retreat to eager is no win.

The real compiler is asked with its own cheapest backend ("eager"), which traces and guards but generates nothing.
"""

import pytest
import torch
from torch import nn

from hybrid_core.evaluation import Toolbox, case_from_module, evaluate
from hybrid_core.measurement import compiling, procedure
from hybrid_core.measurement.compiling import (
    CompileCounts,
    compile_facts,
    compile_warnings,
    fall_back_fault,
    read_counts,
)
from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Purpose, Recipe, Subject, Workload
from hybrid_core.strategies.base import Applied

NOTHING = CompileCounts()
CHANGES = 3
QUICK = MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=2.0, quality_samples=8)


class Changing(nn.Module):
    """Adds zero times a number that the compiler must guard on."""

    def __init__(self):
        super().__init__()
        self.layer, self.number = nn.Linear(8, 8), 1.5

    def forward(self, x):
        return self.layer(x) + 0.0 * self.number


@pytest.fixture(autouse=True)
def forgotten():
    torch._dynamo.reset()
    yield
    torch._dynamo.reset()


def compiled(model, forms=8):
    inner = torch.compile(model, backend="eager", dynamic=False)

    def run(x):
        with torch._dynamo.config.patch(recompile_limit=forms):
            return inner(x)

    return run


def test_each_form_is_a_graph_and_the_limit_is_a_function_given_up():
    model = Changing().eval()
    run, before = compiled(model, forms=3), read_counts()
    for number in (1.5, 2.5, 3.5):
        model.number = number
        run(torch.ones(2, 8))
    assert read_counts().since(before).graphs == 3 and read_counts().since(before).given_up == 0
    model.number = 4.5
    run(torch.ones(2, 8))
    counts = read_counts().since(before)
    assert (counts.graphs, counts.given_up, counts.limits) == (3, 1, 1)


def test_a_backend_that_fails_and_is_hushed_up_is_a_function_given_up():
    def fails(graph, example):
        raise RuntimeError("no such backend")

    before = read_counts()
    with torch._dynamo.config.patch(suppress_errors=True):
        torch.compile(Changing().eval(), backend=fails)(torch.ones(2, 8))
    counts = read_counts().since(before)
    assert (counts.given_up, counts.limits) == (1, 0)


def test_a_graph_break_gives_nothing_up():
    class Breaking(nn.Module):
        def forward(self, x):
            x = x + 1
            torch._dynamo.graph_break()
            return x * 2

    before = read_counts()
    torch.compile(Breaking(), backend="eager")(torch.ones(2))
    counts = read_counts().since(before)
    assert (counts.graphs, counts.breaks, counts.given_up) == (2, 1, 0)


def test_recompiles_before_the_clock_and_while_timed_are_told_apart():
    before, timed = CompileCounts(graphs=2), CompileCounts(graphs=1)
    assert compile_warnings(NOTHING, before, NOTHING) == (
        "recompiled 2 graphs after the first call, before the clock ran",
    )
    assert compile_warnings(NOTHING, NOTHING, timed) == (
        "recompiled 1 graphs while timed, so some timed calls include compiling",
    )
    facts = compile_facts(CompileCounts(graphs=3, breaks=1), before, timed)
    assert [facts[name]["graphs"] for name in ("first_call", "before_timing", "timed")] == [3, 2, 1]


@pytest.mark.parametrize(
    ("before", "timed", "when"),
    [
        (NOTHING, NOTHING, ""),
        (CompileCounts(given_up=1), NOTHING, "after the first call"),
        (NOTHING, CompileCounts(given_up=2, limits=1), "while timed"),
    ],
)
def test_a_retreat_is_a_fault_that_says_when(before, timed, when):
    fault = fall_back_fault(before, timed)
    assert fault.startswith(f"fell back to uncompiled code {when}") if when else fault == ""
    assert ("limit of forms" in fault) == (timed.limits > 0)


def test_a_first_call_that_compiled_a_part_says_so():
    assert (
        "1 function was left as written" in compile_warnings(CompileCounts(graphs=2, given_up=1), NOTHING, NOTHING)[0]
    )


def trial_of(change_in_phase, forms):
    """A compiled candidate whose guarded number changes with the first calls that it gets in one phase."""
    phase = [""]

    class Candidate(nn.Module):
        def __init__(self, model):
            super().__init__()
            self.model = model
            self.run = compiled(model, forms)
            self.eval()

        def forward(self, x):
            if phase[0] == change_in_phase and self.model.number < 1.5 + CHANGES:
                self.model.number += 1.0
            return self.run(x)

    def enter(name):
        phase[0] = name

    toolbox = Toolbox(
        lambda model, recipe, situation: Applied(Candidate(model), ("compiled by the test",)),
        is_exact=lambda step: True,
        compiles=lambda step: True,
    )
    case = case_from_module(Changing().eval(), (torch.randn(2, 8),))
    recipe = Recipe.from_dict({"kernel_fusion": "compile"})
    subject = Subject("fake", "tiny", Workload("forward", "forward", 2))
    return evaluate(
        case, MeasureRequest("t", "r", subject, recipe, Purpose.SEARCH, QUICK), on_phase=enter, toolbox=toolbox
    )


@pytest.fixture
def a_quiet_machine(monkeypatch):
    monkeypatch.setattr(procedure, "refuse_unstable", lambda *measured: None)


@pytest.mark.parametrize(("phase", "stretch"), [("warmup", "before_timing"), ("timing", "timed")])
def test_a_trial_says_in_which_stretch_it_recompiled(a_quiet_machine, phase, stretch):
    trial = trial_of(phase, forms=8)
    assert trial.outcome is Outcome.OK, trial.reason
    facts = trial.measurement.environment["compile"]
    assert facts["first_call"]["graphs"] == 1 and facts[stretch]["graphs"] == CHANGES
    assert sum(facts[name]["graphs"] for name in ("before_timing", "timed") if name != stretch) == 0
    assert facts["first_call_s"] > 0 and facts["transform_s"] >= 0
    words = "while timed" if stretch == "timed" else "before the clock ran"
    assert any(words in warning for warning in trial.measurement.warnings)


def test_a_retreat_in_the_middle_of_the_race_is_no_win(a_quiet_machine):
    trial = trial_of("timing", forms=2)
    assert (trial.outcome, trial.stage) == (Outcome.UNSUPPORTED, "timing")
    assert trial.reason.startswith("fell back to uncompiled code while timed: 1 function was given up")
    assert "limit of forms" in trial.reason


def test_where_the_compiler_was_never_loaded_nothing_is_counted(monkeypatch):
    monkeypatch.delitem(compiling.sys.modules, "torch._dynamo.utils", raising=False)
    assert read_counts() == NOTHING

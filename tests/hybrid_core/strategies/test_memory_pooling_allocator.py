"""Allocator settings hold only in a process that was started for them; anywhere else they refuse and say how."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.application import apply_recipe
from hybrid_core.errors import StrategyUnsupported
from hybrid_core.evaluation import case_from_module, evaluate
from hybrid_core.recipes import start_variables
from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Purpose, Recipe, Subject, Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.memory_pooling import MEMORY_POOLING
from hybrid_core.strategies.pooling import allocator
from hybrid_core.strategies.registry import STRATEGIES

ROOT = Path(__file__).parents[3]
KEEP = {"memory_pooling": "keep_freed_memory"}
NEEDS_GLIBC = pytest.mark.skipif(allocator.KEEP_FREED_MEMORY.unavailable("cpu") is not None, reason="needs glibc")
# One result of 48 MiB per call, and what the process was asked for while it ran.
PROGRAM = """
import resource, torch
from hybrid_core.application import apply_recipe
model = torch.nn.Threshold(0.0, 0.0).eval()
x = torch.ones(12 << 20)
optimized = {build}
def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    optimized(x)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
counts = [faults() for _ in range(4)]
print(counts[-1], getattr(optimized, "needs_start_variables", None))
"""


@pytest.fixture
def started_with(monkeypatch):
    for name, value in allocator.GLIBC_VARIABLES:
        monkeypatch.setenv(name, value)


def situation():
    inputs = (torch.ones(4, 4),)
    return Situation(inputs, lambda model, given: model(*given), Workload("forward", "forward", 4))


def run(build, variables):
    environment = {**os.environ, **variables, "PYTHONPATH": str(ROOT)}
    program = [sys.executable, "-c", PROGRAM.format(build=build)]
    done = subprocess.run(program, env=environment, capture_output=True, text=True, check=True, timeout=120)
    count, _, mark = done.stdout.strip().partition(" ")
    return int(count), mark


@NEEDS_GLIBC
def test_freed_memory_is_kept_in_a_process_started_for_it_and_not_in_another():
    applied = 'apply_recipe(model, {"memory_pooling": "keep_freed_memory"}, (x,))'
    kept, mark = run(applied, dict(allocator.GLIBC_VARIABLES))
    plain, _ = run("model", {})
    assert mark == str(dict(allocator.GLIBC_VARIABLES))
    assert kept < 100, "a page fault is 4 KiB, so this would be a mapping anew"
    assert plain > (48 << 20) // 4096 * 0.9


@NEEDS_GLIBC
def test_any_other_process_refuses_and_says_what_to_export():
    with pytest.raises(StrategyUnsupported, match=r"start Python with MALLOC_MMAP_THRESHOLD_=\d+ MALLOC_TRIM_THRESH"):
        apply_recipe(nn.Linear(4, 4), KEEP, (torch.ones(4, 4),))


@NEEDS_GLIBC
def test_variables_set_after_the_start_are_found_out():
    """In a process of its own: one that ran other tests may have a hole of 48 MiB in its heap, which is reused."""
    program = f"""
import os, torch
from hybrid_core.application import apply_recipe
os.environ.update({dict(allocator.GLIBC_VARIABLES)!r})
apply_recipe(torch.nn.Linear(4, 4), {KEEP!r}, (torch.ones(4, 4),))
"""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode and re.search(r"StrategyUnsupported: .*a block of 48 MiB still costs \d", done.stderr)


@NEEDS_GLIBC
def test_applying_leaves_a_mark_that_a_reader_of_the_model_finds(started_with, monkeypatch):
    monkeypatch.setattr(allocator, "faults_of_a_repeated_block", lambda: 0)
    applied = MEMORY_POOLING.apply("keep_freed_memory", nn.Linear(4, 4).eval(), situation())
    assert applied.model.needs_start_variables == dict(allocator.GLIBC_VARIABLES)
    assert "resident memory stays at its peak" in " ".join(applied.changes)


@NEEDS_GLIBC
def test_a_survey_does_not_refuse_what_only_the_measuring_process_can_know():
    assert MEMORY_POOLING.unsupported("keep_freed_memory", nn.Linear(4, 4).eval(), situation()) is None
    assert MEMORY_POOLING.unavailable("keep_freed_memory", "cpu") is None


@NEEDS_GLIBC
def test_a_comparison_inside_one_process_is_refused_even_with_the_variables(started_with):
    case = case_from_module(nn.Linear(4, 4).eval(), (torch.ones(4, 4),))
    subject = Subject("own", "own", case.workload)
    request = MeasureRequest("t", "r", subject, Recipe.from_dict(KEEP), Purpose.SEARCH, MeasureLimits())
    trial = evaluate(case, request)
    assert trial.outcome is Outcome.UNSUPPORTED
    assert "only a worker" in trial.reason and "start Python with" in trial.reason


def test_another_c_library_and_another_device_are_unavailable_with_a_reason(monkeypatch):
    assert "use expandable_segments" in MEMORY_POOLING.unavailable("keep_freed_memory", "cuda:0")
    monkeypatch.setattr(allocator, "c_library", lambda: "")
    assert MEMORY_POOLING.unavailable("keep_freed_memory", "cpu").endswith("runs on another C library")
    assert "belong to the GPU" in MEMORY_POOLING.unavailable("expandable_segments", "cpu")


def test_no_two_settings_want_one_variable_to_have_two_values():
    wanted = {}
    for setting in (s for strategy in STRATEGIES for s in strategy.settings):
        for name, value in setting.start_variables:
            assert wanted.setdefault(name, value) == value, name
    assert wanted


def test_the_variables_of_a_recipe_are_those_of_its_settings():
    assert start_variables(Recipe()) == {}
    assert start_variables(Recipe.from_dict({"memory_pooling": "in_place"})) == {}
    assert start_variables(Recipe.from_dict(KEEP)) == dict(allocator.GLIBC_VARIABLES)


@pytest.mark.gpu
def test_growing_segments_are_used_by_a_process_started_for_them():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    program = """
import torch
from hybrid_core.application import apply_recipe
model, x = torch.nn.Linear(64, 64).cuda(), torch.ones(8, 64, device="cuda")
apply_recipe(model, {"memory_pooling": "expandable_segments"}, (x,))(x)
print(any(segment["is_expandable"] for segment in torch.cuda.memory_snapshot()))
"""
    environment = {**os.environ, **dict(allocator.SEGMENT_VARIABLES), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"

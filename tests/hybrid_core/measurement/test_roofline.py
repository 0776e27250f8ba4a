"""Faster than physics is refused, and nothing that a legal saving of work could explain."""

import json

import pytest
import torch
from torch import nn

from hybrid_core.evaluation import case_from_module
from hybrid_core.measurement import ceilings, roofline
from hybrid_core.measurement.ceilings import Ceilings, measure_ceilings
from hybrid_core.measurement.roofline import ALLOWANCE, Roofline, inputs_repeat, judge, read_roofline, take_over
from hybrid_core.measurement.work import Work

GFLOPS, GBYTES = 1e9, 1e9
CEILINGS = Ceilings("cpu", 1, {"float32": 60 * GFLOPS, "int8": 180 * GFLOPS}, {1 << 20: 50 * GBYTES})
# 0.62 Gflop: 3.44 ms at the best rate of this device.
WORK = Work(700_000_000, 620_000_000, 1_000_000, 1000)
LINE = Roofline(WORK, CEILINGS)


@pytest.fixture(autouse=True)
def one_core(monkeypatch):
    monkeypatch.setattr(roofline.os, "sched_getaffinity", lambda pid: {0}, raising=False)
    yield
    take_over("")


def never():
    return False


def test_faster_than_physics_is_refused_in_figures():
    verdict = judge(LINE, baseline_ms=10.0, candidate_ms=0.02, inputs_repeat=never)
    assert verdict.fault == (
        "0.02 ms per call would be 31 Tflop/s where this device reached 180 Gflop/s at best: faster than physics, "
        "so it does not do the work"
    )


def test_the_best_format_and_the_allowance_make_the_bound():
    facts = judge(LINE, 10.0, 5.0, never).facts
    assert facts["all_the_work_ms"] == pytest.approx(0.62 / 180 * 1e3)
    assert facts["bound_ms"] == pytest.approx(0.62 / 180 * 1e3 / ALLOWANCE)
    assert facts["candidate_share"] == pytest.approx(0.62 / 180 * 1e3 / 5.0)
    json.dumps(facts, allow_nan=False)


@pytest.mark.parametrize("times", [1.0, 2.0, 8.0, 31.0])
def test_what_leaving_out_work_can_explain_is_never_refused(times):
    verdict = judge(LINE, 10.0, LINE.all_the_work_ms / times, never)
    assert verdict.fault == ""
    assert ("it does a part of it" in verdict.warning) == (times > 2)


def test_a_candidate_may_use_every_core_it_is_allowed(monkeypatch):
    monkeypatch.setattr(roofline.os, "sched_getaffinity", lambda pid: {0, 1, 2, 3}, raising=False)
    fast = LINE.all_the_work_ms / ALLOWANCE / 3.9
    assert judge(LINE, 10.0, fast, never).fault == ""
    assert judge(LINE, 10.0, fast / 1.1, never).fault


def test_an_untouched_model_that_beats_the_ceilings_raises_them():
    """Then the count or the ceilings are off, and nobody is refused for that."""
    assert judge(LINE, baseline_ms=0.1, candidate_ms=0.05, inputs_repeat=never).fault == ""
    assert judge(LINE, baseline_ms=0.1, candidate_ms=0.1 / ALLOWANCE / 2, inputs_repeat=never).fault


def test_reading_bounds_what_calculates_little():
    line = Roofline(Work(10, 10, 4_000_000_000, 0), CEILINGS)
    verdict = judge(line, 1000.0, 0.5, never)
    assert line.least_bytes == 2e9 and "4 TB/s where this device reached 50 GB/s" in verdict.fault


def test_where_nothing_was_counted_nobody_is_refused():
    line = Roofline(Work(0, 0, 0, 0, problem="the call cannot be watched"), CEILINGS)
    assert judge(line, 1.0, 1e-9, never).fault == ""


def test_where_the_same_question_comes_again_an_answer_may_be_remembered():
    verdict = judge(LINE, 10.0, 0.02, inputs_repeat=lambda: True)
    assert verdict.fault == "" and verdict.facts["inputs_repeat"] and "same question" in verdict.warning


def test_repeating_inputs_are_seen_and_fresh_ones_are_none():
    fresh = case_from_module(nn.Linear(4, 4).eval(), (torch.randn(2, 4),))
    same = case_from_module(nn.Embedding(4, 4).eval(), (torch.tensor([2, 2]),))
    assert (inputs_repeat(fresh), inputs_repeat(same)) == (False, True)


def test_what_was_handed_over_is_used_for_the_same_device_and_threads_only(monkeypatch):
    case = case_from_module(nn.Linear(4, 4).eval(), (torch.randn(2, 4),))
    measured = []
    monkeypatch.setattr(roofline, "ceilings_of", lambda device, threads: measured.append(threads) or CEILINGS)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    take_over(json.dumps(LINE.to_json()))
    assert read_roofline(case) == LINE and measured == []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 3)
    found = read_roofline(case)
    assert measured == [3] and found.work.needed_flops == 2 * 2 * 4 * 4


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", json.dumps({"work": {}, "ceilings": {}})])
def test_a_text_that_is_no_roofline_is_measured_anew(monkeypatch, text):
    monkeypatch.setattr(roofline, "ceilings_of", lambda device, threads: CEILINGS)
    case = case_from_module(nn.Linear(4, 4).eval(), (torch.randn(2, 4),))
    take_over(text)
    assert read_roofline(case).work.needed_flops == 2 * 2 * 4 * 4


def test_a_roofline_survives_json():
    assert Roofline.from_json(json.loads(json.dumps(LINE.to_json()))) == LINE


@pytest.mark.parametrize(
    "change", [{"flops": {}}, {"flops": {"float32": -1.0}}, {"read": {"5": float("inf")}}, {"read": {"x": 1.0}}]
)
def test_ceilings_that_cannot_be_are_refused(change):
    with pytest.raises(ValueError):
        Ceilings.from_json({**CEILINGS.to_json(), **change})


class SteppingClock:
    """Each reading is later than the last by the next of some steps; then by a second, which ends every wait."""

    def __init__(self, *steps_ms):
        self._steps, self._now = list(steps_ms), 0

    def __call__(self):
        self._now += int((self._steps.pop(0) if self._steps else 1000) * 1e6)
        return self._now


def test_the_shortest_of_many_repetitions_counts():
    # Begun; then for each repetition: look at patience (not for the first three), start, end.
    clock = SteppingClock(1, 1, 5, 1, 2, 1, 9, 1)
    assert ceilings._shortest_s(lambda: None, torch.device("cpu"), clock) == pytest.approx(2e-3)


def test_a_format_without_a_kernel_is_left_out(monkeypatch):
    def fails(size, device):
        raise RuntimeError("no kernel")

    def formats(device):
        return {"float32": ceilings._floats(torch.float32), "float8": fails}

    monkeypatch.setattr(ceilings, "_formats", formats)
    monkeypatch.setattr(ceilings, "PATIENCE_S", 0.0)
    monkeypatch.setattr(ceilings, "PRODUCT_SIZES", {"cpu": (16,)})
    monkeypatch.setattr(ceilings, "WORKING_SETS", {"cpu": (1 << 14,)})
    found = measure_ceilings(torch.device("cpu"), 1)
    assert set(found.flops) == {"float32"} and found.best_flops > 0 and set(found.read) == {1 << 14}


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_has_ceilings_of_several_formats():
    found = measure_ceilings(torch.device("cuda", 0), 1)
    assert {"float32", "bfloat16", "float16"} <= set(found.flops) and found.best_read > 1e10

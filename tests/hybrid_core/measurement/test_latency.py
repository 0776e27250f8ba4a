"""Timing is tested with a clock that the models themselves advance, so every expected number is exact."""

import contextlib
import gc
import os
import re
import time
from dataclasses import replace

import pytest
import torch
from torch import nn

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement import latency
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.statistics import ratio_of_pairs
from hybrid_core.measurement.telemetry import NoTelemetry
from hybrid_core.records import MeasureLimits, Outcome, Workload


class Watch:
    """A clock in nanoseconds that stands still unless somebody works."""

    def __init__(self):
        self.now = 0

    def __call__(self) -> int:
        return self.now

    def work(self, milliseconds: float) -> None:
        self.now += round(milliseconds * 1e6)


class Worker(nn.Module):
    """Takes the given milliseconds per call, from a number or from a function of the call's index."""

    def __init__(self, watch, cost_ms, journal=None):
        super().__init__()
        self.watch, self.cost_ms, self.journal, self.calls = watch, cost_ms, journal, 0

    def forward(self, x):
        self.watch.work(self.cost_ms(self.calls) if callable(self.cost_ms) else self.cost_ms)
        self.calls += 1
        if self.journal is not None:
            self.journal.append((self, x))
        return x * 2


class FakeTelemetry(NoTelemetry):
    """One reading after each block, after an empty one for what was before the race."""

    def __init__(self, readings):
        self.readings = [{}, *readings]

    def read(self):
        return self.readings.pop(0) if self.readings else {}


def throttled(reason):
    return {"throttled_by": [reason]}


def race_of(watch, baseline, candidate, *, inputs_ms=0.0, check=lambda expected, got: None, telemetry=None):
    def make_inputs(generator):
        watch.work(inputs_ms)
        return (torch.randn(4, generator=generator),)

    case = Case(
        lambda: baseline,
        make_inputs,
        lambda model, inputs: model(*inputs),
        None,
        Workload("forward", "forward", 4),
        torch.device("cpu"),
        1,
        0,
    )
    telemetry = telemetry or NoTelemetry()
    return latency.Race(case, baseline, candidate, check, telemetry, clock=watch)


def test_a_model_twice_as_fast_is_measured_as_exactly_twice_as_fast():
    watch = Watch()
    timing = latency.take_pairs(race_of(watch, Worker(watch, 8.0), Worker(watch, 4.0)), MeasureLimits(), 1, 0)
    assert timing.pairs_ms == ((8.0, 4.0),) * 12
    assert timing.stop_reason.startswith("certain enough") and "12 pairs" in timing.stop_reason
    assert ratio_of_pairs(timing.pairs_ms).value == pytest.approx(2.0)


def test_making_inputs_is_not_timed():
    watch = Watch()
    race = race_of(watch, Worker(watch, 8.0), Worker(watch, 4.0), inputs_ms=500.0)
    timing = latency.take_pairs(race, MeasureLimits(max_timed_s=60), 1, 0)
    assert set(timing.pairs_ms) == {(8.0, 4.0)}


def test_blocks_alternate_between_abba_and_baab():
    watch, journal = Watch(), []
    baseline, candidate = Worker(watch, 5.0, journal), Worker(watch, 5.0, journal)
    latency.take_pairs(race_of(watch, baseline, candidate), MeasureLimits(min_pairs=4, max_pairs=4), 1, 0)
    order = "".join("A" if model is baseline else "B" for model, _ in journal)
    assert order == "ABBABAAB"


def test_every_pair_gets_new_values_and_each_model_its_own_memory():
    watch, journal = Watch(), []
    race = race_of(watch, Worker(watch, 5.0, journal), Worker(watch, 5.0, journal))
    latency.take_pairs(race, MeasureLimits(min_pairs=4, max_pairs=4), 1, 0)
    pairs = [(journal[i][1], journal[i + 1][1]) for i in range(0, len(journal), 2)]
    assert all(torch.equal(a, b) and a.data_ptr() != b.data_ptr() for a, b in pairs)
    assert len({tuple(a.tolist()) for a, _ in pairs}) == len(pairs)


def test_the_garbage_collector_is_off_while_timed_and_on_again_after():
    seen, watch = [], Watch()
    baseline = Worker(watch, lambda call: seen.append(gc.isenabled()) or 1.0)
    latency.take_pairs(race_of(watch, baseline, Worker(watch, 1.0)), MeasureLimits(max_pairs=4), 1, 0)
    assert seen and not any(seen) and gc.isenabled()


def test_gradients_are_off_while_timed():
    seen, watch = [], Watch()
    baseline = Worker(watch, lambda call: seen.append(torch.is_inference_mode_enabled()) or 1.0)
    latency.take_pairs(race_of(watch, baseline, Worker(watch, 1.0)), MeasureLimits(max_pairs=4), 1, 0)
    assert seen and all(seen)


def noisy(generator, middle):
    return lambda call: middle * float(torch.exp(0.3 * torch.randn((), generator=generator)))


def test_a_noisy_race_stops_at_the_most_pairs_and_says_so():
    watch, generator = Watch(), torch.Generator().manual_seed(1)
    race = race_of(watch, Worker(watch, noisy(generator, 5.0)), Worker(watch, noisy(generator, 5.0)))
    timing = latency.take_pairs(race, MeasureLimits(max_pairs=40, max_timed_s=600), 1, 0)
    assert len(timing.pairs_ms) == 40
    assert timing.stop_reason.startswith("limit of 40 pairs reached")
    assert any("spread" in warning for warning in timing.warnings)


def test_a_slow_race_stops_at_the_time_limit_and_says_so():
    watch, generator = Watch(), torch.Generator().manual_seed(1)
    race = race_of(watch, Worker(watch, noisy(generator, 900.0)), Worker(watch, noisy(generator, 900.0)))
    timing = latency.take_pairs(race, MeasureLimits(max_timed_s=4.0), 1, 0)
    assert timing.stop_reason.startswith("limit of 4 s reached")
    assert 4 <= len(timing.pairs_ms) < 12


def test_a_machine_that_slows_down_is_reported_as_drift():
    watch = Watch()
    slower = lambda call: 5.0 + 0.3 * call  # noqa: E731
    timing = latency.take_pairs(race_of(watch, Worker(watch, slower), Worker(watch, slower)), MeasureLimits(), 1, 0)
    assert any("during the timed phase" in warning for warning in timing.warnings)


def test_short_calls_are_repeated_inside_a_sample_and_reported_per_call():
    watch = Watch()
    baseline = Worker(watch, 0.25)
    timing = latency.take_pairs(race_of(watch, baseline, Worker(watch, 0.125)), MeasureLimits(max_pairs=12), 4, 0)
    assert set(timing.pairs_ms) == {(0.25, 0.125)}
    assert timing.repeats == 4 and baseline.calls == 4 * len(timing.pairs_ms)


def test_warm_up_ends_when_three_blocks_agree_after_at_least_ten_calls():
    watch = Watch()
    cooling = lambda call: 20.0 if call < 6 else 2.0  # noqa: E731
    baseline, candidate = Worker(watch, cooling), Worker(watch, cooling)
    repeats, warnings = latency.warm_up(race_of(watch, baseline, candidate), MeasureLimits())
    assert (repeats, warnings) == (1, ())
    assert candidate.calls >= 6 + 3 * 2


def test_warm_up_that_never_settles_stops_at_its_cap_and_warns():
    watch = Watch()
    race = race_of(watch, Worker(watch, lambda call: 5.0 + call), Worker(watch, 5.0))
    _, warnings = latency.warm_up(race, MeasureLimits(max_timed_s=1.0))
    assert len(warnings) == 1 and "did not agree" in warnings[0]


def test_warm_up_finds_the_repeats_of_a_short_call():
    watch = Watch()
    repeats, _ = latency.warm_up(race_of(watch, Worker(watch, 0.3), Worker(watch, 0.1)), MeasureLimits())
    assert repeats == 10


def test_throttled_blocks_are_taken_again():
    watch = Watch()
    slow_then_fast = lambda call: 50.0 if call < 4 else 5.0  # noqa: E731
    telemetry = FakeTelemetry([throttled("hardware thermal slowdown")] * 2)
    race = race_of(watch, Worker(watch, slow_then_fast), Worker(watch, slow_then_fast), telemetry=telemetry)
    timing = latency.take_pairs(race, MeasureLimits(max_pairs=12), 1, 0)
    assert set(timing.pairs_ms) == {(5.0, 5.0)}
    assert timing.warnings == ("2 timed blocks were taken again because the device was throttled",)


def test_a_device_that_stays_throttled_is_flagged_and_does_not_hang():
    watch = Watch()
    telemetry = FakeTelemetry([throttled("software power cap")] * 1000)
    race = race_of(watch, Worker(watch, 5.0), Worker(watch, 5.0), telemetry=telemetry)
    timing = latency.take_pairs(race, MeasureLimits(max_pairs=12), 1, 0)
    assert len(timing.pairs_ms) == 12
    assert any("still throttled after 20 retakes (software power cap)" in warning for warning in timing.warnings)
    assert len(timing.telemetry) == 6


def test_blocks_that_waited_for_a_processor_are_taken_again_and_their_times_are_not_mixed_in():
    watch = Watch()
    slow_then_fast = lambda call: 50.0 if call < 4 else 5.0  # noqa: E731
    telemetry = FakeTelemetry([{"wall_ms": 200.0, "own_ms": 20.0, "waited_ms": 180.0}] * 2)
    race = race_of(watch, Worker(watch, slow_then_fast), Worker(watch, slow_then_fast), telemetry=telemetry)
    timing = latency.take_pairs(race, MeasureLimits(max_pairs=12), 1, 0)
    assert set(timing.pairs_ms) == {(5.0, 5.0)}
    assert (timing.conditions["retaken"], timing.conditions["disturbed_blocks"]) == (2, 0)
    assert timing.conditions["blocks"] == len(timing.pairs_ms) // 2


def test_only_what_is_timed_is_watched():
    watched, watch = [], Watch()

    class Watching(NoTelemetry):
        @contextlib.contextmanager
        def watching(self):
            watched.append("begin")
            yield
            watched.append("end")

    baseline = Worker(watch, lambda call: watched.append("baseline") or 1.0)
    candidate = Worker(watch, lambda call: watched.append("candidate") or 1.0)
    check = lambda expected, got: watched.append("check")  # noqa: E731
    race = race_of(watch, baseline, candidate, check=check, telemetry=Watching())
    latency.take_pairs(race, MeasureLimits(min_pairs=4, max_pairs=4), 1, 0)
    assert watched[:10] == ["begin", "baseline", "candidate", "end", "check"] + [
        "begin", "candidate", "baseline", "end", "check"
    ]  # fmt: skip


def test_answers_of_every_pair_are_checked_after_the_clock_stopped():
    watch, checked = Watch(), []

    def check(expected, got):
        watch.work(1000.0)
        checked.append(torch.equal(expected, got))

    race = race_of(watch, Worker(watch, 5.0), Worker(watch, 5.0), check=check)
    timing = latency.take_pairs(race, MeasureLimits(max_timed_s=600), 1, 0)
    assert len(checked) == len(timing.pairs_ms) and all(checked)
    assert set(timing.pairs_ms) == {(5.0, 5.0)}


def test_a_patched_timer_does_not_reach_the_clock_that_was_captured_at_import(monkeypatch):
    captured = time.perf_counter_ns
    monkeypatch.setattr(time, "perf_counter_ns", lambda: 0)
    assert latency.clock_ns is captured and latency.clock_ns() > 0


class ElsewhereClock:
    """Another process that takes the given milliseconds and writes itself into the journal."""

    def __init__(self, watch, cost_ms, journal):
        self.watch, self.cost_ms, self.journal = watch, cost_ms, journal

    def sample(self, seed, repeats):
        self.journal.append(("A", seed, repeats))
        self.watch.work(self.cost_ms * (repeats + 1))
        return self.cost_ms

    def reading(self):
        return {}

    def pid(self):
        return 1

    def facts(self):
        return {}


def race_apart(watch, journal, *, elsewhere_ms=8.0, candidate_ms=4.0, check=lambda expected, got: None):
    race = race_of(watch, Worker(watch, 500.0, journal), Worker(watch, candidate_ms, journal), check=check)
    return replace(race, baseline_clock=ElsewhereClock(watch, elsewhere_ms, journal))


def test_a_baseline_in_another_process_gives_its_times_and_the_local_one_only_answers():
    watch, compared = Watch(), []
    race = race_apart(watch, [], check=lambda expected, got: compared.append(torch.equal(expected, got)))
    timing = latency.take_pairs(race, MeasureLimits(min_pairs=4, max_pairs=8, max_timed_s=600), 1, 0)
    assert set(timing.pairs_ms) == {(8.0, 4.0)}
    assert compared == [True] * len(timing.pairs_ms)


def test_blocks_alternate_between_abba_and_baab_across_processes_with_an_untimed_call_before_each_sample():
    watch, journal = Watch(), []
    race = race_apart(watch, journal)
    latency.take_pairs(race, MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=600), 2, 0)
    names = {race.candidate: "b", race.baseline: "c"}
    order = "".join(names.get(entry[0], entry[0]) for entry in journal)
    # One untimed call, two timed, and the baseline that answers afterwards: of one call or both.
    assert re.fullmatch("A(bbbcc?)(bbbcc?)A(bbbcc?)AA(bbbcc?)", order)


def test_both_processes_draw_equal_inputs_from_the_seed_that_is_sent():
    watch, journal = Watch(), []
    race = race_apart(watch, journal)
    latency.take_pairs(race, MeasureLimits(min_pairs=4, max_pairs=4, max_timed_s=600), 1, 0)
    seeds = [entry[1] for entry in journal if entry[0] == "A"]
    here = [x for model, x, *_ in (e for e in journal if e[0] is race.candidate)]
    assert len(set(seeds)) == 4
    told = []
    other = race_of(watch, Worker(watch, 1.0), Worker(watch, 1.0, told))
    for seed in seeds:
        latency.checked_sample(other, seed, 1)
    there = [x for _, x in told]
    assert sorted(x.sum().item() for x in here) == sorted(x.sum().item() for x in there)


def test_of_two_processes_in_turn_what_either_waited_counts_for_the_block():
    watch = Watch()
    here = FakeTelemetry([{"wall_ms": 20.0, "own_ms": 20.0, "waited_ms": 0.0}] * 100)

    class Busy(ElsewhereClock):
        def reading(self):
            return {"wall_ms": 20.0, "own_ms": 10.0, "waited_ms": 10.0}

        def pid(self):
            return 4711

    race = replace(race_apart(watch, []), telemetry=here, baseline_clock=Busy(watch, 8.0, []))
    timing = latency.take_pairs(race, MeasureLimits(min_pairs=4, max_pairs=8, max_timed_s=600), 1, 0)
    assert (timing.conditions["own_share"], timing.conditions["waited_share"]) == (0.75, 0.25)
    assert timing.conditions["disturbed_blocks"] == timing.conditions["blocks"] == len(timing.pairs_ms) // 2
    assert latency._own_processes(race) == {os.getpid(), 4711}


def test_a_baseline_that_is_lost_in_another_process_ends_the_timing():
    class Lost(ElsewhereClock):
        def sample(self, seed, repeats):
            raise MeasurementFailed("gone", outcome=Outcome.CRASHED, stage="timing")

    race = replace(race_apart(Watch(), []), baseline_clock=Lost(Watch(), 1.0, []))
    with pytest.raises(MeasurementFailed, match="gone"):
        latency.take_pairs(race, MeasureLimits(), 1, 0)

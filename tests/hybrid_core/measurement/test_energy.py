"""Energy is measured with a card whose counter the models themselves drive, so every expected joule is exact."""

import json
import types

import pytest
import torch
from torch import nn

from hybrid_core.measurement import energy, telemetry
from hybrid_core.measurement.case import Case
from hybrid_core.records import Workload


class Card:
    """A counter in millijoules and a clock in seconds that stand still unless a model works; an idle draw on top."""

    def __init__(self):
        self.millijoules, self.seconds = 5_000_000.0, 100.0

    def work(self, seconds, watts):
        self.seconds += seconds
        self.millijoules += seconds * watts * 1000

    def nvml(self, **missing):
        class NotSupported(Exception):
            pass

        return types.SimpleNamespace(
            NVMLError=NotSupported,
            nvmlDeviceGetTotalEnergyConsumption=lambda handle: int(self.millijoules),
            **missing,
        )


class Burner(nn.Module):
    def __init__(self, card, seconds, watts):
        super().__init__()
        self.card, self.seconds, self.watts, self.seen = card, seconds, watts, []

    def forward(self, x):
        self.card.work(self.seconds, self.watts)
        self.seen.append(float(x.sum()))
        return x


def case():
    return Case(
        nn.Identity,
        lambda generator: (torch.randn(4, generator=generator),),
        lambda model, inputs: model(*inputs),
        None,
        Workload("forward", "forward", 4),
        torch.device("cpu"),
        1,
        0,
    )


def measure(card, baseline, candidate, seconds=2.0):
    counter = telemetry.NvmlTelemetry(card.nvml(), "handle")
    return energy.measure_energy(case(), baseline, candidate, counter, seconds=seconds, clock=lambda: card.seconds)


def test_joules_per_call_are_power_times_time_of_each_model():
    card = Card()
    found = measure(card, Burner(card, 0.25, 300.0), Burner(card, 0.125, 400.0))
    assert found["baseline_j_per_call"] == pytest.approx(75.0)
    assert found["candidate_j_per_call"] == pytest.approx(50.0)
    assert found["efficiency"] == pytest.approx(1.5)
    assert (found["baseline_watts"], found["candidate_watts"]) == pytest.approx((300.0, 400.0))
    json.dumps(found, allow_nan=False)


def test_each_model_runs_alone_for_the_seconds_asked_for():
    card = Card()
    found = measure(card, Burner(card, 0.25, 300.0), Burner(card, 0.125, 400.0), seconds=3.0)
    assert (found["baseline_calls"], found["candidate_calls"]) == (12, 24)
    assert found["seconds"] == pytest.approx(6.0)


def test_a_call_longer_than_the_pass_still_counts_once():
    card = Card()
    found = measure(card, Burner(card, 9.0, 100.0), Burner(card, 9.0, 100.0))
    assert (found["baseline_calls"], found["baseline_j_per_call"]) == (1, pytest.approx(900.0))


def test_the_inputs_change_from_call_to_call_and_both_models_get_the_same():
    card = Card()
    baseline, candidate = Burner(card, 0.1, 300.0), Burner(card, 0.1, 300.0)
    measure(card, baseline, candidate)
    assert len(set(baseline.seen)) == energy.INPUTS_EACH
    assert baseline.seen == candidate.seen


def test_a_counter_that_stands_still_gives_no_figure():
    card = Card()
    found = measure(card, Burner(card, 0.5, 0.0), Burner(card, 0.5, 0.0))
    assert list(found) == ["reason"] and "stood still" in found["reason"]


def test_a_card_without_a_counter_says_so():
    class NotSupported(Exception):
        pass

    counter = telemetry.NvmlTelemetry(types.SimpleNamespace(NVMLError=NotSupported), "handle")
    found = energy.measure_energy(case(), nn.Identity(), nn.Identity(), counter)
    assert found == {"reason": "n/a: this GPU does not count the energy it uses (cards before Volta do not)"}


def test_a_cpu_has_no_figure_and_no_model_is_called_for_it():
    untouched = Burner(Card(), 1.0, 1.0)
    found = energy.measure_energy(case(), untouched, untouched, telemetry.ProcessorTelemetry())
    assert found == {"reason": "n/a: a CPU does not count the energy it uses"}
    assert untouched.seen == []


@pytest.mark.gpu
def test_a_real_card_uses_more_energy_for_more_work():
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    device = torch.device("cuda", 0)
    counter, _ = telemetry.open_telemetry(device)

    class Multiply(nn.Module):
        def __init__(self, times):
            super().__init__()
            self.times = times

        def forward(self, x):
            for _ in range(self.times):
                x = torch.tanh(x @ x)
            return x

    real = Case(
        nn.Identity,
        lambda generator: (torch.randn(1024, 1024, generator=generator),),
        lambda model, inputs: model(*inputs),
        None,
        Workload("forward", "forward", 1024),
        device,
        1,
        0,
    )
    found = energy.measure_energy(real, Multiply(40), Multiply(10), counter)
    assert found.get("efficiency", 0.0) > 1.0, found

"""The conditions reach the trial: as facts beside the figures, and as its end where the race said nothing."""

import json

import numpy as np
import pytest

from hybrid_core.evaluation import evaluate
from hybrid_core.measurement import blocks, latency, procedure
from hybrid_core.measurement.telemetry import NoTelemetry
from hybrid_core.records import MeasureLimits, Outcome, Recipe, to_json
from tests.hybrid_core.measurement.trying import QUICK, Wrapped, case_of, request_for, try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


class Same(Wrapped):
    def answer(self, x):
        return self.honest(x)


class BusyCore(NoTelemetry):
    """Every block waited for half of its time."""

    def read(self):
        return {"wall_ms": 10.0, "own_ms": 5.0, "waited_ms": 5.0}


def test_a_trial_keeps_its_conditions_and_says_that_a_cpu_has_no_energy_figure():
    trial = try_candidate(Same)
    assert trial.outcome is Outcome.OK, trial.reason
    facts = json.loads(json.dumps(to_json(trial), allow_nan=False))["measurement"]["environment"]
    assert facts["conditions"]["blocks"] == len(trial.measurement.pairs_ms) // 2
    assert len(facts["conditions"]["block_own_shares"]) == facts["conditions"]["blocks"]
    assert facts["telemetry"] == [], "what the processors did is told once, in the conditions"
    assert facts["energy"] == {"reason": "n/a: a CPU does not count the energy it uses"}


def test_a_busy_machine_flags_a_trial_and_warns_with_figures(monkeypatch):
    monkeypatch.setattr(procedure, "open_telemetry", lambda device: (BusyCore(), ""))
    limits = MeasureLimits(target_half_width=1000.0, min_pairs=4, max_pairs=4, max_timed_s=60.0, quality_samples=8)
    trial = try_candidate(Same, limits=limits)
    assert trial.outcome is Outcome.OK, trial.reason
    (sentence,) = [text for text in trial.measurement.warnings if text.startswith("the machine was not quiet")]
    assert (
        f"22 of 22 timed blocks were disturbed ({blocks.WAITING}), 20 were taken again and 2 had to be kept" in sentence
    )
    assert trial.measurement.environment["conditions"]["flagged"]


@pytest.fixture
def wild_race(monkeypatch):
    generator = np.random.default_rng(8)
    pairs = tuple((float(a), float(b)) for a, b in np.exp(generator.normal(0, 1.5, (60, 2))))
    facts = {"blocks": 30, "retaken": 20, "disturbed_blocks": 30, "reasons": [blocks.WAITING], "flagged": True}
    timing = latency.Timing(pairs, 1, "limit of 60 pairs reached", (), (), facts)
    monkeypatch.setattr(latency, "take_pairs", lambda *arguments: timing)


def test_a_race_that_says_nothing_ends_as_unstable_with_a_reason(wild_race):
    trial = try_candidate(Same, limits=MeasureLimits(quality_samples=8))
    assert (trial.outcome, trial.stage, trial.measurement) == (Outcome.UNSTABLE, "timing", None)
    assert trial.reason.startswith("50 of 50 timed blocks (100%) were disturbed")


def test_of_the_untouched_model_against_itself_the_width_is_the_answer(wild_race):
    trial = evaluate(case_of(), request_for(Recipe(), QUICK))
    assert trial.outcome is Outcome.OK, trial.reason
    assert trial.measurement.environment["conditions"]["flagged"]

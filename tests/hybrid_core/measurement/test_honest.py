"""Honest candidates pass, and what is odd about an untouched model is said instead of held against anybody."""

import pytest

from hybrid_core.records import Outcome
from tests.hybrid_core.measurement import honest
from tests.hybrid_core.measurement.trying import Wrapped, case_of, try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


@pytest.mark.parametrize("control", honest.CONTROLS, ids=lambda control: control.__name__)
def test_an_honest_candidate_passes(control):
    trial = try_candidate(control, exact=control.exact, case=case_of(control.build, make_inputs=control.make_inputs))
    assert trial.outcome is Outcome.OK, trial.reason
    assert trial.measurement.accuracy_preservation.value > (0.95 if control.exact else 0.9)


ODDITIES = [
    (honest.DropoutModel, "the untouched model itself changes the random state of torch"),
    (honest.DropoutModel, "the untouched model differs from itself by"),
    (honest.ScratchModel, "the untouched model changes its own inputs: it changed input[0]"),
    (
        honest.DriftingModel,
        "the untouched model changes itself from call to call (norm.running_mean, norm.running_var)",
    ),
    (honest.ReusingModel, "the untouched model writes its next answer over the one before"),
]


@pytest.mark.parametrize(("model", "words"), ODDITIES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_odd_about_the_untouched_model_is_said(model, words):
    trial = try_candidate(Plain, case=case_of(model))
    assert trial.outcome is Outcome.OK, trial.reason
    assert any(words in warning for warning in trial.measurement.warnings), trial.measurement.warnings


class Plain(Wrapped):
    def answer(self, *inputs):
        return self.honest(*inputs)

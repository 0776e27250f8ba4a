"""Honest candidates pass, and what is odd about an untouched model is said instead of held against anybody."""

import pytest
import torch
from torch import nn

from hybrid_core.measurement.case import Case
from hybrid_core.records import Outcome
from tests.hybrid_core.measurement import honest_models
from tests.hybrid_core.measurement.honest import CONTROLS
from tests.hybrid_core.measurement.trying import Honest, Wrapped, case_of, try_candidate

pytestmark = pytest.mark.usefixtures("quick_census")


@pytest.mark.parametrize("control", CONTROLS, ids=lambda control: control.__name__)
def test_an_honest_candidate_passes(control):
    trial = try_candidate(control, exact=control.exact, case=case_of(control.build, make_inputs=control.make_inputs))
    assert trial.outcome is Outcome.OK, trial.reason
    assert trial.measurement.accuracy_preservation.value > (0.95 if control.exact else 0.9)


ODDITIES = [
    (honest_models.DropoutModel, "the untouched model itself changes the random state of torch"),
    (honest_models.DropoutModel, "the untouched model differs from itself by"),
    (honest_models.ScratchModel, "the untouched model changes its own inputs: it changed input[0]"),
    (
        honest_models.DriftingModel,
        "the untouched model changes itself from call to call (norm.running_mean, norm.running_var)",
    ),
    (honest_models.ReusingModel, "the untouched model writes its next answer over the one before"),
]


@pytest.mark.parametrize(("model", "words"), ODDITIES, ids=lambda value: getattr(value, "__name__", ""))
def test_what_is_odd_about_the_untouched_model_is_said(model, words):
    trial = try_candidate(Plain, case=case_of(model))
    assert trial.outcome is Outcome.OK, trial.reason
    assert any(words in warning for warning in trial.measurement.warnings), trial.measurement.warnings


class Plain(Wrapped):
    def answer(self, *inputs):
        return self.honest(*inputs)


def test_a_model_that_is_noisy_itself_gives_an_honest_copy_its_tolerance():
    class Noisy(Honest):
        def forward(self, x):
            return super().forward(x) * (1 + 1e-3 * torch.randn(()))

    trial = try_candidate(lambda model: None, case=case_of(Noisy))
    assert trial.outcome is Outcome.OK, trial.reason
    assert any("differs from itself" in warning for warning in trial.measurement.warnings)


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

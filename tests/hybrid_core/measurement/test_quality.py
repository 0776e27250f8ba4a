"""Quality numbers against plain PyTorch formulas on the same rows."""

import math

import pytest
import torch
from torch import nn

from hybrid_core.errors import MeasurementFailed
from hybrid_core.measurement.case import Case
from hybrid_core.measurement.quality import measure_quality
from hybrid_core.records import Workload

CLASSES, LENGTH = 6, 5


class SequenceTask:
    has_classes = True
    metric, unit, bits_per = "next-token accuracy", "window of 5 tokens", "token"

    def __init__(self, rows=40, per_batch=8, seed=0):
        generator = torch.Generator().manual_seed(seed)
        self.inputs = torch.randn(rows, LENGTH, CLASSES, generator=generator)
        self.targets = torch.randint(CLASSES, (rows, LENGTH), generator=generator)
        self.per_batch = per_batch

    def batches(self, rows):
        for start in range(0, min(rows, len(self.targets)), self.per_batch):
            part = slice(start, start + self.per_batch)
            yield (self.inputs[part],), self.targets[part]

    def answer(self, model, inputs):
        return model(*inputs)

    def score(self, answers, targets):
        return (answers.argmax(-1) == targets).double().view(len(targets), -1).mean(1)

    def rates(self, model):
        return {}


class DigitTask(SequenceTask):
    metric, unit, bits_per = "digit accuracy", "image", None

    def __init__(self):
        super().__init__()
        self.inputs, self.targets = self.inputs[:, 0], self.targets[:, 0]


class Scale(nn.Module):
    def __init__(self, factor=1.0, shift=0.0):
        super().__init__()
        self.factor, self.shift = factor, shift

    def forward(self, x):
        return x * self.factor + self.shift * torch.arange(x.shape[-1])


def case_of(task=None, batch=4):
    return Case(
        Scale,
        lambda generator: (torch.randn(batch, CLASSES, generator=generator),),
        lambda model, inputs: model(*inputs),
        task,
        Workload("forward", "forward", batch),
        torch.device("cpu"),
        1,
        0,
    )


def test_the_same_model_keeps_all_of_its_quality():
    quality, preservation, warnings, _ = measure_quality(case_of(SequenceTask()), Scale(), Scale(), 40)
    assert preservation.value == 1.0 and 0.9 < preservation.low < 1.0 < preservation.high
    assert quality.value == quality.baseline_value and warnings == ()
    assert quality.details["top1_agreement"] == 1.0 and quality.details["kl_nats"] == pytest.approx(0.0, abs=1e-9)


def test_further_rates_are_figures_of_a_final_and_cost_a_search_nothing():
    class Rated(SequenceTask):
        asked = 0

        def rates(self, model):
            self.asked += 1
            return {"found first": model.factor}

    task = Rated()
    searched, *_ = measure_quality(case_of(task), Scale(), Scale(0.5), 40, bound=0.98)
    assert task.asked == 0 and "found first" not in searched.details
    final, *_ = measure_quality(case_of(task), Scale(), Scale(0.5), 40)
    assert (final.details["found first"], final.details["baseline_found first"]) == (0.5, 1.0)
    assert final.value == searched.value


def test_task_numbers_are_those_of_plain_pytorch():
    task, candidate = SequenceTask(), Scale(0.7, 0.4)
    quality, preservation, _, _ = measure_quality(case_of(task), Scale(), candidate, 40)
    base, got = task.inputs, candidate(task.inputs)
    right = (got.argmax(-1) == task.targets).double().mean()
    base_right = (base.argmax(-1) == task.targets).double().mean()
    nats = nn.functional.cross_entropy(got.flatten(0, 1), task.targets.flatten())
    kl = nn.functional.kl_div(
        torch.log_softmax(got, -1).flatten(0, 1), torch.softmax(base, -1).flatten(0, 1), reduction="batchmean"
    )
    assert quality.metric == "next-token accuracy" and quality.samples == 40
    assert quality.value.value == pytest.approx(float(right))
    assert quality.baseline_value.value == pytest.approx(float(base_right))
    assert preservation.value == pytest.approx(float(right / base_right))
    assert preservation.low < preservation.value < preservation.high
    assert quality.details["bits_per_token"] == pytest.approx(float(nats) / math.log(2), rel=1e-5)
    assert quality.details["kl_nats"] == pytest.approx(float(kl), rel=1e-5)
    assert quality.details["top1_agreement"] == pytest.approx(
        float((got.argmax(-1) == base.argmax(-1)).double().mean())
    )


def test_a_task_without_a_unit_reports_nats():
    quality, _, _, _ = measure_quality(case_of(DigitTask()), Scale(), Scale(0.5), 40)
    assert {"nll_nats", "baseline_nll_nats"} <= set(quality.details)
    assert quality.samples == 40


def test_fewer_rows_are_asked_for_when_the_limits_say_so():
    quality, _, _, _ = measure_quality(case_of(SequenceTask()), Scale(), Scale(), 16)
    assert quality.samples == 16


def test_without_a_task_the_quality_is_the_agreement():
    quality, preservation, _, _ = measure_quality(case_of(), Scale(), Scale(0.9), 32)
    assert quality.metric == "agreement" and quality.samples == 8
    assert preservation.value == pytest.approx(0.9, abs=1e-6)
    assert quality.baseline_value.value == 1.0
    assert quality.details["relative_error"] == pytest.approx(0.1, abs=1e-6)
    assert quality.details["top1_agreement"] == 1.0


def test_agreement_is_never_negative():
    _, preservation, _, _ = measure_quality(case_of(), Scale(), Scale(-9.0), 8)
    assert preservation.value == 0.0


def test_a_baseline_that_is_never_right_is_judged_by_agreement_and_says_so():
    task = SequenceTask()
    task.targets = task.inputs.argmin(-1)
    quality, preservation, warnings, _ = measure_quality(case_of(task), Scale(), Scale(), 40)
    assert quality.metric == "agreement" and preservation.value == 1.0
    assert "next-token accuracy is 0 on 40 rows" in warnings[0]


class Spoiled(Scale):
    def forward(self, x):
        return super().forward(x) * float("nan")


class Flat(Scale):
    def forward(self, x):
        return super().forward(x)[..., 0]


@pytest.mark.parametrize(("model", "words"), [(Spoiled(), "NaN"), (Flat(), "where targets are")])
@pytest.mark.parametrize("task", [SequenceTask()])
def test_answers_that_cannot_be_scored_are_wrong(model, words, task):
    with pytest.raises(MeasurementFailed, match=words) as caught:
        measure_quality(case_of(task), Scale(), model, 40)
    assert (caught.value.outcome, caught.value.stage) == ("wrong", "quality")


class WritingTask(SequenceTask):
    """Answers are the numbers the model writes, right only if all of a row are."""

    metric, unit, bits_per, has_classes = "exact answers", "problem", None, False

    def answer(self, model, inputs):
        return model(*inputs).argmax(-1)

    def score(self, answers, targets):
        return (answers == targets).all(1).double()

    def rates(self, model):
        return {"largest_share": float(model(self.inputs).argmax(-1).eq(CLASSES - 1).double().mean())}


def test_a_written_answer_is_scored_by_its_task_and_compared_number_by_number():
    task, candidate = WritingTask(), Scale(0.7, 0.1)
    written, other = task.inputs.argmax(-1), candidate(task.inputs).argmax(-1)
    task.targets = torch.where(torch.arange(40)[:, None] < 30, written, task.targets)
    quality, preservation, warnings, _ = measure_quality(case_of(task), Scale(), candidate, 40)
    base_right, right = ((answer == task.targets).all(1).double().mean().item() for answer in (written, other))
    assert (quality.metric, warnings) == ("exact answers", ())
    assert quality.baseline_value.value == pytest.approx(base_right) and base_right > right > 0
    assert quality.value.value == pytest.approx(right)
    assert preservation.value == pytest.approx(right / base_right)
    assert quality.details == pytest.approx(
        {
            "equal_answers": (written == other).double().mean().item(),
            "largest_share": (other == CLASSES - 1).double().mean().item(),
            "baseline_largest_share": (written == CLASSES - 1).double().mean().item(),
        }
    )


class RankingTask(SequenceTask):
    metric, unit, bits_per, has_classes = "ranking", "window", None, False

    def answer(self, model, inputs):
        return model(*inputs)[..., 0]

    def score(self, answers, targets):
        return torch.full((len(answers),), 0.5)


def test_real_valued_answers_are_as_close_as_their_relative_error_and_have_no_likelihood():
    quality, preservation, _, _ = measure_quality(case_of(RankingTask()), Scale(), Scale(0.9), 40)
    assert quality.details["relative_error"] == pytest.approx(0.1, abs=1e-6)
    assert set(quality.details) == {"relative_error", "largest_difference", "cosine", "sqnr_db"}
    assert preservation.value == 1.0 and quality.value.value == 0.5


def test_rates_stand_beside_the_numbers_of_a_task_with_classes():
    task = SequenceTask()
    task.rates = lambda model: {"violation_rate": model.factor}
    quality, _, _, _ = measure_quality(case_of(task), Scale(1.0), Scale(0.25), 40)
    assert quality.details["violation_rate"] == 0.25 and quality.details["baseline_violation_rate"] == 1.0
    assert {"bits_per_token", "kl_nats", "top1_agreement", "relative_error"} <= set(quality.details)


class Silent(Scale):
    def forward(self, x):
        return {"text": "nothing to score"}


class Shorter(Scale):
    def forward(self, x):
        return x[:-1]


class Narrower(Scale):
    def forward(self, x):
        return x[:, :-1]


class PlainTask(RankingTask):
    def answer(self, model, inputs):
        return model(*inputs)


@pytest.mark.parametrize(
    ("model", "words"),
    [(Silent(), "no tensor where"), (Shorter(), "where targets are"), (Narrower(), "not float"), (Spoiled(), "NaN")],
)
def test_answers_without_classes_that_cannot_be_scored_are_wrong(model, words):
    with pytest.raises(MeasurementFailed, match=words) as caught:
        measure_quality(case_of(PlainTask()), Scale(), model, 40)
    assert (caught.value.outcome, caught.value.stage) == ("wrong", "quality")


@pytest.mark.parametrize("scores", [torch.ones(3), torch.full((8,), 1.5), torch.full((8,), float("nan"))])
def test_a_task_that_scores_outside_zero_and_one_is_refused(scores):
    task = PlainTask()
    task.score = lambda answers, targets: scores
    with pytest.raises(MeasurementFailed, match="one number between 0 and 1") as caught:
        measure_quality(case_of(task), Scale(), Scale(), 40)
    assert caught.value.outcome == "crashed"


class CountedTask(DigitTask):
    """Rows that are right as a whole, and how many of them were asked for."""

    def __init__(self, rows=384, per_batch=32):
        super(DigitTask, self).__init__(rows, per_batch)
        self.inputs = self.inputs[:, 0]
        self.targets = self.inputs.argmax(-1)
        self.asked = 0

    def batches(self, rows):
        for batch in super().batches(rows):
            self.asked += len(batch[1])
            yield batch


class Forgets(Scale):
    """Wrong on every row whose first number is among the smallest `share`."""

    def __init__(self, share):
        super().__init__()
        self.limit = torch.distributions.Normal(0.0, 1.0).icdf(torch.tensor(share))

    def forward(self, x):
        return torch.where(x[..., :1] < self.limit, -x, x)


class Rounds(Scale):
    def forward(self, x):
        return x * (1 + 1e-6)


def test_a_hopeless_candidate_is_given_up_before_all_rows_were_asked():
    task = CountedTask()
    result = measure_quality(case_of(task), Scale(), Forgets(0.5), 384, bound=0.98)
    assert result.preservation.high < 0.98 and result.facts["decided"] == "below"
    assert task.asked == result.quality.samples == 32
    assert result.facts["stopped"] == "decided after 32 of 384 rows: the accuracy bound of 0.98 is missed"


def test_without_a_bound_all_rows_are_used_whatever_they_say():
    task = CountedTask()
    result = measure_quality(case_of(task), Scale(), Forgets(0.5), 384)
    assert task.asked == result.quality.samples == 384 and result.facts["stopped"] == "all 384 rows were used"


def test_an_exact_candidate_keeps_the_bound_on_few_rows_and_an_inexact_one_must_show_it():
    few = 64
    exact = measure_quality(case_of(CountedTask()), Scale(), Rounds(), few, bound=0.98, exact=True)
    inexact = measure_quality(case_of(CountedTask()), Scale(), Rounds(), few, bound=0.98)
    assert 0.98 < exact.preservation.low < 1.0 and exact.facts["rows"] == 32
    assert inexact.preservation.low < 0.98 and inexact.facts["decided"] == ""
    assert "about 183 rows can" in inexact.warnings[0] and exact.warnings == ()


def test_an_inexact_candidate_that_loses_nothing_shows_it_on_enough_rows():
    result = measure_quality(case_of(CountedTask()), Scale(), Rounds(), 384, bound=0.98)
    assert result.preservation.low >= 0.98 and result.facts["decided"] == "above" and result.warnings == ()


def test_an_exact_promise_does_not_hide_rows_that_were_lost():
    result = measure_quality(case_of(CountedTask()), Scale(), Forgets(0.1), 384, bound=0.98, exact=True)
    assert result.facts["decided"] == "below"


def test_windows_of_many_predictions_decide_on_fewer_rows_than_single_answers():
    task = SequenceTask(rows=384, per_batch=32)
    result = measure_quality(case_of(task), Scale(), Rounds(), 384, bound=0.9)
    assert result.facts["decided"] == "above" and result.quality.samples < 384


@pytest.mark.parametrize(("factor", "decided"), [(0.999, "above"), (0.5, "below")])
def test_agreement_is_decided_before_the_last_call(factor, decided):
    result = measure_quality(case_of(batch=1), Scale(), Scale(factor), 64, bound=0.98)
    assert result.facts["decided"] == decided and result.quality.samples == 8
    assert result.facts["stopped"].startswith("decided after 8 of 32 calls")


def test_identical_answers_never_prove_that_the_next_call_is_identical():
    result = measure_quality(case_of(), Scale(), Scale(), 32)
    assert result.preservation.value == 1.0 and 0.9999 < result.preservation.low < 1.0

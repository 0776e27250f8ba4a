"""One function counts the quality on any task: which interval, which figures, against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import nn

from hybrid_core.models.quality import score_interval, task_quality
from hybrid_core.models.tasks.base import ClassesTask


class WordTask(ClassesTask):
    """Ten rows of four targets each, in two batches."""

    metric, unit, bits_per = "next-word accuracy", "line", "word"
    targets = torch.arange(40).reshape(10, 4) % 3

    def batches(self, rows):
        for start in range(0, min(rows, 10), 5):
            yield (self.targets[start : start + 5],), self.targets[start : start + 5]

    def trivial_score(self):
        return 0.35


class Uncertain(nn.Module):
    """Gives the right class probability 1/2 on odd rows and 1/4 on even ones, the rest evenly to the two others."""

    def forward(self, targets):
        share = torch.tensor([0.5, 0.25])[(torch.arange(len(targets)) + 1) % 2][:, None, None]
        right = nn.functional.one_hot(targets, 3).float()
        return torch.log(right * share + (1 - right) * (1 - share) / 2)


class WholeTask(WordTask):
    """The same answers, a row right only as a whole, no likelihood, one further figure."""

    metric, unit, bits_per, has_classes = "exact lines", "line", None, False

    def score(self, answers, targets):
        return (answers.argmax(-1) == targets).all(1).double()

    def rates(self, model):
        return {"parameters": float(sum(p.numel() for p in model.parameters()))}


def test_targets_with_classes_are_counted_with_their_bits():
    quality = task_quality(Uncertain(), WordTask())
    rows = [1.0 if row % 2 else 0.0 for row in [*range(5), *range(5)]]
    assert quality["value"] == pytest.approx(0.4)
    bits = [1.0 if right else 2.0 for right in rows]
    assert quality["bits_per_word"] == pytest.approx(sum(bits) / 10)
    assert (quality["samples"], quality["unit"], quality["trivial"]) == (10, "line", 0.35)
    assert "rates" not in quality


def test_rows_right_as_a_whole_get_wilsons_interval_and_no_bits():
    quality = task_quality(Uncertain(), WholeTask())
    expected = stats.binomtest(4, 10).proportion_ci(method="wilson")
    assert (quality["low"], quality["high"]) == pytest.approx((expected.low, expected.high), rel=1e-6)
    assert quality["rates"] == {"parameters": 0.0}
    assert not any(name.startswith("bits") for name in quality)


def test_scores_between_zero_and_one_get_the_normal_interval():
    scores = torch.tensor([0.25, 0.5, 1.0, 0.75, 0.5], dtype=torch.float64)
    low, high = stats.norm.interval(0.95, scores.mean().item(), scores.std().item() / math.sqrt(5))
    assert score_interval(scores) == pytest.approx((low, high), rel=1e-6)


def test_fewer_rows_are_counted_when_asked_for():
    assert task_quality(Uncertain(), WordTask(), rows=5)["samples"] == 5


def test_counting_builds_no_graph():
    seen = []
    model = nn.Embedding(3, 3)
    model.register_forward_hook(lambda module, inputs, output: seen.append(output.requires_grad))
    task_quality(model, WordTask())
    assert seen == [False, False] and model.weight.requires_grad

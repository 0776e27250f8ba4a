"""The held-out data: the released bytes, the fixed order, and the figures counted on it."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from statistics import NormalDist

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.corpus import HELD_OUT_BYTES, is_held_out, library_sources, training_text
from hybrid_core.models.quality import task_quality, wilson_interval
from hybrid_core.models.registry import ENTRIES
from hybrid_core.models.tasks import digits, next_byte
from hybrid_core.models.tasks.digits import DigitsTask
from hybrid_core.models.tasks.next_byte import NextByteTask, held_out_bytes


def test_held_out_files_are_the_released_ones():
    text = next_byte.HELD_OUT_TEXT.read_bytes()
    assert len(text) == HELD_OUT_BYTES
    assert hashlib.sha256(text).hexdigest() == next_byte.HELD_OUT_TEXT_SHA256
    images = digits.HELD_OUT_DIGITS.read_bytes()
    assert hashlib.sha256(images).hexdigest() == digits.HELD_OUT_DIGITS_SHA256


def test_a_changed_file_is_refused(tmp_path, monkeypatch):
    changed = tmp_path / "held_out_python.txt"
    changed.write_bytes(next_byte.HELD_OUT_TEXT.read_bytes() + b"#")
    monkeypatch.setattr(next_byte, "HELD_OUT_TEXT", changed)
    with pytest.raises(InvalidInput, match="restore the file"):
        held_out_bytes.__wrapped__()


def test_training_text_holds_no_held_out_module():
    training = training_text()
    held_out = [text for path, text in library_sources() if is_held_out(path) and len(text) > 200]
    assert len(held_out) >= 10
    assert not any(text in training for text in held_out)
    assert b"class JSONDecoder" in training


def test_windows_follow_each_other_in_the_text():
    text = bytes(held_out_bytes().tolist())
    for (tokens,), targets in NextByteTask().batches(12):
        assert tokens.shape == targets.shape == (4, 256)
        for row in range(4):
            piece = bytes(tokens[row].tolist()) + bytes(targets[row, -1:].tolist())
            assert piece in text
            assert torch.equal(tokens[row, 1:], targets[row, :-1])


def test_all_windows_cover_the_text_exactly_once():
    text = bytes(held_out_bytes().tolist())
    windows = [bytes(row.tolist()) for (tokens,), _ in NextByteTask().batches(10**6) for row in tokens]
    assert len(windows) == 512
    assert sorted(windows) == sorted(text[i * 256 : (i + 1) * 256] for i in range(512))


def test_few_rows_already_span_the_text():
    first = [bytes(row.tolist()) for (tokens,), _ in NextByteTask().batches(64) for row in tokens]
    text = bytes(held_out_bytes().tolist())
    places = sorted(text.index(window) / len(text) for window in first)
    gaps = [b - a for a, b in zip([0.0, *places], [*places, 1.0], strict=True)]
    assert max(gaps) < 3 / 64


@pytest.mark.parametrize("task", [NextByteTask(), DigitsTask()], ids=lambda t: t.metric)
@pytest.mark.parametrize("rows", [1, 33, 64, 10**6])
def test_fewer_rows_are_the_beginning_of_more(task, rows):
    few, all_rows = list(task.batches(rows)), list(task.batches(10**6))
    for (inputs, targets), (all_inputs, all_targets) in zip(few, all_rows, strict=False):
        assert torch.equal(inputs[0], all_inputs[0]) and torch.equal(targets, all_targets)
    assert len(few) == min(len(all_rows), max(1, rows // task.batch))


@pytest.mark.parametrize("task", [NextByteTask(), DigitsTask()], ids=lambda t: t.metric)
def test_no_rows_are_refused(task):
    with pytest.raises(InvalidInput, match="rows=0"):
        next(task.batches(0))


class AlwaysSpace(nn.Module):
    """Puts probability 1/2 on a space and shares the rest."""

    def forward(self, tokens):
        logits = torch.full((*tokens.shape, 256), math.log(0.5 / 255))
        logits[..., 32] = math.log(0.5)
        return logits


def test_constant_answer_scores_the_trivial_score_and_its_closed_form_bits():
    task = NextByteTask()
    quality = task_quality(AlwaysSpace(), task)
    share = task.trivial_score()
    assert quality["value"] == pytest.approx(share, abs=1e-9)
    assert quality["bits_per_byte"] == pytest.approx(share + (1 - share) * math.log2(510), abs=1e-4)


def test_perfect_digit_answers_score_one_with_an_interval_inside():
    images, labels = digits.held_out_digits()
    answers = {image.numpy().tobytes(): int(label) for image, label in zip(images, labels, strict=True)}

    class Oracle(nn.Module):
        def forward(self, batch):
            return nn.functional.one_hot(torch.tensor([answers[i.numpy().tobytes()] for i in batch]), 10).float()

    quality = task_quality(Oracle(), DigitsTask())
    assert quality["value"] == 1.0
    assert quality["high"] == pytest.approx(1.0)
    assert 0.99 < quality["low"] < 1.0


@pytest.mark.parametrize(("hits", "count"), [(98, 100), (1, 7), (300, 608)])
def test_wilson_interval_ends_are_where_the_score_test_rejects(hits, count):
    z = NormalDist().inv_cdf(0.975)
    for share in wilson_interval(hits, count):
        assert abs(hits / count - share) == pytest.approx(z * math.sqrt(share * (1 - share) / count), rel=1e-5)


@pytest.mark.parametrize("entry", ENTRIES, ids=lambda entry: entry.name)
def test_documentation_quotes_the_figures_of_the_shipped_files(entry):
    page = (Path(__file__).parents[3] / "docs" / "models.md").read_text()
    for size in entry.sizes:
        facts = entry.facts(size)
        row = next(line for line in page.splitlines() if line.startswith(f"| `{entry.name}` | `{size}` |"))
        assert f"{facts['parameters']:,}" in row
        for workload in entry.workloads(size):
            assert f"`{workload.name}`" in row
        if facts["trained"]:
            low, value, high = (100 * facts["quality"][key] for key in ("low", "value", "high"))
            assert f"{value:.2f} % ({low:.2f} to {high:.2f})" in row

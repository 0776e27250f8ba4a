"""Agreement figures against closed forms and plain PyTorch."""

import math

import pytest
import torch

from hybrid_core.measurement.agreement import Agreement, closeness


def agreement_of(expected, got):
    found = Agreement()
    found.add_row([(expected, got)])
    return found


@pytest.mark.parametrize("error", [0.5, 0.1, 1e-3])
def test_the_ratio_of_signal_to_noise_is_twenty_decibels_for_each_factor_of_ten(error):
    signal = torch.tensor([3.0, -4.0], dtype=torch.float64)
    figures = agreement_of(signal, signal * (1 + error)).details()
    assert figures["sqnr_db"] == pytest.approx(-20 * math.log10(error))
    assert figures["largest_difference"] == pytest.approx(4 * error) and figures["cosine"] == pytest.approx(1.0)
    assert figures["relative_error"] == pytest.approx(error)


def test_uniform_quantization_reaches_its_textbook_ratio():
    """A full-scale sine in b bits: 6.02 b + 1.76 dB."""
    bits, turns = 8, torch.arange(100_000, dtype=torch.float64) * 0.6180339887
    sine = torch.sin(2 * math.pi * turns)
    step = 2 / 2**bits
    assert agreement_of(sine, torch.round(sine / step) * step).details()["sqnr_db"] == pytest.approx(
        6.02 * bits + 1.76, abs=0.1
    )


def test_the_cosine_is_that_of_the_angle():
    angle = 0.3
    turned = torch.tensor([math.cos(angle), math.sin(angle)], dtype=torch.float64)
    figures = agreement_of(torch.tensor([1.0, 0.0], dtype=torch.float64), turned).details()
    assert figures["cosine"] == pytest.approx(math.cos(angle))


def test_figures_of_many_rows_are_those_of_all_numbers_at_once():
    generator = torch.Generator().manual_seed(0)
    expected, noise = (torch.randn(5, 7, generator=generator, dtype=torch.float64) for _ in range(2))
    got = expected + 0.1 * noise
    found = Agreement()
    for a, b in zip(expected, got, strict=True):
        found.add_row([(a, b)])
    figures = found.details()
    assert figures["sqnr_db"] == pytest.approx(float(20 * torch.log10(expected.norm() / (0.1 * noise).norm())))
    assert figures["cosine"] == pytest.approx(
        float(torch.nn.functional.cosine_similarity(expected.flatten(), got.flatten(), 0))
    )
    assert figures["relative_error"] == pytest.approx(1 - sum(found.closeness) / 5)


def test_equal_answers_have_no_noise_and_so_no_ratio_to_it():
    figures = agreement_of(torch.ones(3), torch.ones(3)).details()
    assert figures == {"relative_error": 0.0, "largest_difference": 0.0, "cosine": pytest.approx(1.0)}


def test_distributions_are_compared_as_pytorch_does():
    generator = torch.Generator().manual_seed(1)
    expected, got = (torch.randn(6, 9, generator=generator) for _ in range(2))
    found = agreement_of(expected, got)
    found.add_distributions(expected, got)
    kl = torch.nn.functional.kl_div(
        torch.log_softmax(got, -1), torch.log_softmax(expected, -1), log_target=True, reduction="batchmean"
    )
    assert found.details()["kl_nats"] == pytest.approx(float(kl), rel=1e-5)
    same = (expected.argmax(-1) == got.argmax(-1)).double().mean()
    assert found.details()["top1_agreement"] == float(same)


def test_complex_and_whole_numbers_are_compared_too():
    wave = torch.polar(torch.ones(4), torch.arange(4.0))
    assert agreement_of(wave, wave * 1.1).details()["sqnr_db"] == pytest.approx(20.0, abs=1e-3)
    written = agreement_of(torch.tensor([1, 2, 3, 4]), torch.tensor([1, 2, 3, 9]))
    assert written.details() == {"equal_answers": 0.75} and written.rounding == 0.25
    assert closeness(torch.zeros(2), torch.ones(2)) == 0.0

"""What counts as the same answer, and the words for what does not."""

from types import SimpleNamespace

import pytest
import torch

from hybrid_core.measurement.correctness import (
    Tolerance,
    compare_outputs,
    constant_fault,
    nan_fault,
    relative_error,
    usual_sizes,
)

EXACT, LOOSE = Tolerance(exact=True), Tolerance(exact=False)
BASE = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))


def noisy(scale: float) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return BASE + scale * BASE.norm() / BASE.numel() ** 0.5 * torch.randn(BASE.shape, generator=generator)


@pytest.mark.parametrize(
    ("got", "words"),
    [
        (None, "output is None where the baseline gives a Tensor float32[16, 32]"),
        ((BASE,), "output is a tuple of 1"),
        (BASE[:, :31], "shape [16, 31]"),
        (BASE.T.contiguous().T[:15], "shape [15, 32]"),
        (BASE.double(), "dtype float64"),
        (BASE.to("meta"), "device meta"),
        (BASE.clone().fill_(float("nan")), "NaN at output"),
        (BASE.clone().index_put_((torch.tensor(3), torch.tensor(4)), torch.tensor(float("inf"))), "infinity at output"),
        (torch.zeros_like(BASE), "relative error 1.0e+00"),
        (BASE.half().float(), "relative error 2"),
        (BASE.bfloat16().float(), "relative error 1.6e-03"),
    ],
)
def test_a_different_answer_is_named(got, words):
    assert words in compare_outputs(BASE, got, EXACT).fault


@pytest.mark.parametrize("scale", [0.0, 1e-6, 1e-5])
def test_rounding_is_allowed_for_exact_steps(scale):
    assert compare_outputs(BASE, noisy(scale), EXACT).fault == ""


def test_one_wrong_value_in_a_large_output_is_seen_by_exact_steps():
    large = torch.randn(1000, 1000, generator=torch.Generator().manual_seed(2))
    wrong = large.clone()
    wrong[5, 5] += 0.02
    assert "single value" in compare_outputs(large, wrong, EXACT).fault


@pytest.mark.parametrize("scale", [0.03, 0.3])
def test_quantization_error_passes_the_loose_bound_and_is_recorded(scale):
    comparison = compare_outputs(BASE, noisy(scale), LOOSE)
    assert comparison.fault == ""
    assert comparison.relative_error == pytest.approx(scale, rel=0.1)
    assert comparison.max_abs_error == pytest.approx(float((noisy(scale) - BASE).abs().max()))


def test_garbage_does_not_pass_the_loose_bound():
    other = torch.randn(16, 32, generator=torch.Generator().manual_seed(9))
    assert "relative error 1." in compare_outputs(BASE, other, LOOSE).fault


def test_a_single_odd_position_of_a_long_sequence_is_the_quality_tasks_business_but_a_share_of_them_is_wrong():
    sequence = torch.randn(1, 512, 16, generator=torch.Generator().manual_seed(3))
    odd = sequence.clone()
    odd[0, 116] = -odd[0, 116]
    assert compare_outputs(sequence, odd, LOOSE).fault == ""
    odd[0, 200:210] = 0.0
    assert "11 of 512 rows, first row 116" in compare_outputs(sequence, odd, LOOSE).fault
    assert compare_outputs(sequence[:, :1].clone(), -sequence[:, :1], LOOSE).fault


def test_one_skipped_row_of_many_does_not_pass_the_loose_bound():
    skipped = BASE.clone()
    skipped[-1] = 0
    assert relative_error(BASE, skipped) < 0.5
    assert "1 of 16 rows, first row 15" in compare_outputs(BASE, skipped, LOOSE).fault


def test_one_skipped_position_of_a_sequence_does_not_pass_the_loose_bound():
    sequence = torch.randn(1, 64, 8, generator=torch.Generator().manual_seed(3))
    skipped = sequence.clone()
    skipped[0, 40] = 0
    assert "1 of 64 rows, first row 40" in compare_outputs(sequence, skipped, LOOSE).fault


def test_a_noisy_baseline_widens_the_bound():
    assert compare_outputs(BASE, noisy(1e-3), EXACT).fault
    assert compare_outputs(BASE, noisy(1e-3), Tolerance(exact=True, noise=5e-4)).fault == ""


def test_nested_outputs_are_compared_leaf_by_leaf():
    expected = {"logits": BASE, "state": (BASE, [BASE])}
    wrong = {"logits": BASE, "state": (BASE, [BASE + 1])}
    assert compare_outputs(expected, {"logits": BASE, "state": (BASE, [BASE])}, EXACT).fault == ""
    assert compare_outputs(expected, wrong, EXACT).fault.startswith("output['state'][1][0]: relative error")


def test_other_keys_are_named():
    assert "keys ['a'] where the baseline has ['b']" in compare_outputs({"b": BASE}, {"a": BASE}, EXACT).fault


def test_whole_numbers_must_be_equal_for_exact_steps_and_mostly_equal_for_others():
    expected = torch.arange(10)
    got = expected.clone()
    got[0] = 5
    assert "10.0% of the whole numbers differ" in compare_outputs(expected, got, EXACT).fault
    assert compare_outputs(expected, got, LOOSE).fault == ""


def test_a_subclass_that_computes_later_is_another_type():
    class Lazy(torch.Tensor):
        pass

    assert "a Lazy" in compare_outputs(BASE, BASE.as_subclass(Lazy), EXACT).fault


def test_the_same_answer_to_different_questions_is_a_constant():
    assert "same constant" in constant_fault([BASE, BASE + 1], [BASE, BASE])
    assert constant_fault([BASE, BASE + 1], [BASE, BASE + 1]) == ""
    assert constant_fault([BASE, BASE], [BASE, BASE]) == ""


def test_the_place_of_a_nan_is_named():
    assert nan_fault((BASE, {"x": BASE * float("nan")})) == "NaN at output[1]['x']"
    assert nan_fault((BASE, torch.arange(3), "text")) == ""


def test_the_relative_error_is_the_ratio_of_norms():
    assert relative_error(torch.zeros(3), torch.zeros(3)) == 0.0
    assert relative_error(torch.zeros(3), torch.ones(3)) == float("inf")
    assert relative_error(torch.complex(BASE, BASE), torch.complex(BASE, BASE * 1.0)) == 0.0


def test_an_empty_output_is_the_same_as_an_empty_output():
    assert compare_outputs(torch.zeros(0, 4), torch.zeros(0, 4), EXACT).fault == ""


def scores(seed, rows=1):
    """One number for each row, a sum of many that nearly cancel now and then, and the same in double precision."""
    generator = torch.Generator().manual_seed(seed)
    features, weights = torch.randn(rows, 256, generator=generator), torch.randn(256, 1, generator=generator)
    return features @ weights, (features.double() @ weights.double()), features, weights


def test_a_lone_number_near_zero_is_judged_by_how_large_it_usually_is():
    usual = usual_sizes([scores(seed)[0] for seed in range(8)])
    assert usual["output"] == pytest.approx(16, rel=0.5)  # the root of 256 products of variance one
    lone = torch.tensor([[1e-3]])
    rounded = lone + 3e-7 * usual["output"]
    assert "relative error" in compare_outputs(lone, rounded, EXACT).fault
    assert compare_outputs(lone, rounded, Tolerance(True, usual=usual)).fault == ""
    assert "relative error" in compare_outputs(lone, lone + 1.0, LOOSE).fault
    assert compare_outputs(lone, lone + 1.0, Tolerance(False, usual=usual)).fault == ""


def test_half_precision_and_garbage_stay_wrong_for_lone_numbers():
    usual = usual_sizes([scores(seed)[0] for seed in range(8)])
    halves, garbage = 0, 0
    for seed in range(8, 40):
        expected, _, features, weights = scores(seed)
        half = (features.half() @ weights.half()).float()
        halves += bool(compare_outputs(expected, half, Tolerance(True, usual=usual)).fault)
        garbage += bool(compare_outputs(expected, torch.zeros_like(expected), Tolerance(False, usual=usual)).fault)
    assert halves >= 24 and garbage >= 16  # of 32 questions; a measurement asks six and condemns by one


def test_rows_of_few_values_are_judged_by_the_typical_row_and_longer_ones_by_their_own():
    expected = torch.linspace(-1, 1, 16)[:, None].clone()
    expected[7] = 1e-3
    off = expected + 0.04
    assert compare_outputs(expected, off, LOOSE).fault == ""
    assert "rows" in compare_outputs(expected.expand(16, 8), off.expand(16, 8), LOOSE).fault
    skipped = expected.clone()
    skipped[0] = 0
    assert "1 of 16 rows, first row 0" in compare_outputs(expected, skipped, LOOSE).fault


def test_only_outputs_of_few_values_have_a_usual_size():
    assert usual_sizes([{"score": torch.ones(1, 2), "logits": torch.ones(5), "label": torch.tensor(3)}]) == {
        "output['score']": 1.0
    }


def test_tensors_inside_objects_are_compared_and_an_object_that_holds_itself_ends():
    def cache(values):
        held = SimpleNamespace(layers=[SimpleNamespace(values=values)], text="x")
        held.owner = held
        return held

    assert compare_outputs((BASE, cache(BASE)), (BASE, cache(BASE.clone())), EXACT).fault == ""
    fault = compare_outputs((BASE, cache(BASE)), (BASE, cache(BASE + 1)), EXACT).fault
    assert fault.startswith("output[1]['layers'][0]['values']: relative error")


def test_plain_numbers_may_round_and_texts_may_not():
    assert compare_outputs((BASE, 0.5), (BASE, 0.5000001), EXACT).fault == ""
    assert "output[1]: relative error" in compare_outputs((BASE, 0.5), (BASE, 0.51), EXACT).fault
    assert "output[1] is 'b' where" in compare_outputs((BASE, "a"), (BASE, "b"), EXACT).fault
    assert compare_outputs((BASE, float("nan")), (BASE, float("nan")), EXACT).fault == ""


@pytest.mark.parametrize("noise", [0.0, 1e-3, 0.02, 0.1, 0.3, 0.6])
def test_the_room_for_noise_covers_an_honest_copy_and_never_lets_zeros_pass(noise):
    bound = Tolerance(exact=True, noise=noise).bound(torch.float32)
    assert noise * 1.5 <= bound < 1.0

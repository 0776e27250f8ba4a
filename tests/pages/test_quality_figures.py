"""The figures beside the metric: every name becomes a label, and the result page shows them."""

import math

from pages.components.quality_figures import quality_figures


def test_a_figure_stands_with_that_of_the_untouched_model():
    figures = quality_figures({"bits_per_byte": 2.21034, "baseline_bits_per_byte": 2.2, "right_step_share": 0.875})
    assert figures == {"Bits per byte": "2.21, baseline 2.2", "Right step share": "87.5 %"}


def test_a_name_that_only_looks_like_a_twin_is_shown_itself():
    assert quality_figures({"baseline_mean": 1.5}) == {"Baseline mean": "1.5"}


def test_missing_numbers_are_said_to_be_missing():
    assert set(quality_figures({"kl_nats": math.nan, "violation_rate": None}).values()) == {"not measured"}


def test_labels_of_a_task_are_one_line_of_plain_text():
    (label,) = quality_figures({"rate\n of\u202e evil": 1.0})
    assert label.splitlines() == [label] and "\u202e" not in label


def test_the_result_page_shows_them_for_the_candidate(client, open_page):
    shown = open_page("run", run="r-done").table[0].value.to_string().replace("\\", "")
    assert "Bits per byte" in shown and "2.21, baseline 2.2" in shown
    assert "Same top answer as the untouched model" in shown and "98.0 %" in shown

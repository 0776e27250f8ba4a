"""Charts of what a search learned as plain data: units, the baseline, the diagonal, and nothing that was not told."""

import math
from dataclasses import replace

import pytest

from pages.components import learning_charts, proposed
from pages.components.chart_frame import BASELINE, FADED, FAILED, MAX_POINTS, MEASURED, PALE
from tests.pages import fake_learning
from tests.pages.fake_rows import NOW, llama_trials, trial_row

ROWS = [trial_row(t) for t in llama_trials("r", NOW)]
TOLD = [{"kind": kind, "data": data} for kind, data in fake_learning.told()]
PROPOSALS = proposed.proposals_of(TOLD, ROWS, 1.0)
REPORT = fake_learning.policy_report()


def trace(figure, name):
    return next(t for t in figure.data if t.name == name)


def test_every_axis_with_numbers_names_its_unit():
    losses = learning_charts.curves({"loss": [1.0, 0.5]}, "value loss", "squared return", "training group (number)")
    shares = learning_charts.accuracies(REPORT["group_accuracy"], REPORT["group_kept"], "training group (number)")
    for figure in (learning_charts.foretold(PROPOSALS), learning_charts.foretold([]), losses, shares):
        for axis in (figure.layout.xaxis, figure.layout.yaxis):
            assert axis.title.text.endswith(")"), axis.title.text
        assert figure.layout.uirevision
    for bars in (learning_charts.policy("s", {"off": 0.5, "a": 0.5}), learning_charts.chances({"a": 1.0}, [])):
        assert bars.layout.xaxis.title.text.endswith("(%)")


def test_prediction_and_measurement_share_their_axes_with_diagonal_and_baseline():
    for proposals in (PROPOSALS, []):
        figure = learning_charts.foretold(proposals)
        assert figure.layout.xaxis.range == figure.layout.yaxis.range
        assert {(s.x0, s.y0) for s in figure.layout.shapes} == {(1.0, 0), (0, 1.0)}
        diagonal = trace(figure, "as predicted")
        assert list(diagonal.x) == list(diagonal.y)
        # Both ends of the logarithmic axis, so that the diagonal reaches the corners.
        assert [math.log10(x) for x in diagonal.x] == pytest.approx(list(figure.layout.xaxis.range))


def test_each_point_carries_both_intervals_and_its_proposers_mark():
    figure = learning_charts.foretold(PROPOSALS)
    mine = next(p for p in PROPOSALS if p.by == "rl")
    points = trace(figure, "Reinforcement learning")
    assert (points.x[0], points.y[0]) == (mine.predicted, mine.gain)
    assert points.error_x.array[0] == pytest.approx(mine.predicted * (math.exp(1.96 * 0.04) - 1))
    assert points.error_y.arrayminus[0] == pytest.approx(mine.gain - mine.gain_low)
    marks = [t.marker.symbol for t in figure.data if t.mode == "markers" and t.name != "failed"]
    assert len(set(marks)) == len(marks) == len({p.by for p in PROPOSALS if p.gain and p.predicted})


def test_what_broke_a_bound_is_faded_and_what_failed_is_a_red_cross_at_the_edge():
    figure = learning_charts.foretold(PROPOSALS)
    assert list(trace(figure, "Likeliest by the prior").marker.color) == [FADED]
    failed = trace(figure, "failed")
    assert (failed.marker.symbol, failed.marker.color) == ("x", FAILED)
    assert len(failed.x) == sum(p.outcome not in ("", "ok") and p.predicted is not None for p in PROPOSALS)
    assert max(failed.y) < min(p.gain for p in PROPOSALS if p.gain)


def test_what_was_never_measured_or_never_predicted_is_not_drawn():
    unmeasured = [replace(p, outcome="", gain=None) for p in PROPOSALS]
    unpredicted = [replace(p, predicted=None) for p in PROPOSALS]
    for proposals in (unmeasured, unpredicted):
        assert [t.name for t in learning_charts.foretold(proposals).data] == ["as predicted"]


def test_unknown_numbers_of_a_curve_leave_a_gap_and_the_first_line_lies_on_top():
    series = {"mean": [0.1, None, math.nan, 0.3], "best": [0.2, 0.2, 0.2, 0.4]}
    figure = learning_charts.curves(series, "return", "gain", "group (number)", baseline=0.0)
    assert list(trace(figure, "mean").y) == [0.1, None, None, 0.3]
    assert figure.data[-1].name == "mean" and figure.data[-1].line.color == MEASURED
    assert [s.y0 for s in figure.layout.shapes] == [0.0]


def test_updates_stand_where_their_groups_stood_and_count_from_one_otherwise():
    placed = learning_charts.curves({"e": [3.0, 2.0]}, "entropy", "nats", "group (number)", [4, 9])
    counted = learning_charts.curves({"e": [3.0, 2.0]}, "entropy", "nats", "group (number)", [4])
    assert (list(placed.data[0].x), list(counted.data[0].x)) == ([4, 9], [1, 2])


def test_groups_that_taught_nothing_are_apart_from_those_trained_on():
    figure = learning_charts.accuracies([0.0, 0.5, 1.0, 0.25], [False, True, False, True], "group (number)")
    assert list(trace(figure, "trained on").x) == [2, 4]
    assert list(trace(figure, "left out").x) == [1, 3]
    assert trace(figure, "left out").marker.color == PALE


def test_leaving_a_strategy_out_is_grey_and_slots_share_one_length():
    first = learning_charts.policy("quantization", {"off": 0.2, "int8": 0.7, "bfloat16": 0.1})
    other = learning_charts.policy("memory pooling", {"off": 0.5, "in_place": 0.5})
    assert list(first.data[0].x) == pytest.approx([70, 20, 10])
    assert list(first.data[0].marker.color) == [MEASURED, BASELINE, MEASURED]
    assert first.layout.xaxis.range == other.layout.xaxis.range
    assert [s.x0 for s in first.layout.shapes] == pytest.approx([100 / 3])


def test_who_became_a_parent_is_in_full_colour_and_the_rest_is_counted():
    many = {f"quantization={n}": 1 / 40 for n in range(40)}
    figure = learning_charts.chances(many, ["quantization=0"])
    assert sum(figure.data[0].x) == pytest.approx(100)
    assert figure.layout.yaxis.ticktext[-1] == f"{40 - learning_charts.MOST_BARS} others together"
    assert list(figure.data[0].marker.color).count(MEASURED) == 1


def test_a_long_recipe_is_broken_where_a_step_begins():
    key = "attention_fusion=sdpa_causal+kernel_fusion=compile+memory_pooling=in_place"
    (label,) = learning_charts.chances({key: 1.0}, []).layout.yaxis.ticktext
    assert label.split("<br>") == [
        "attention fusion: sdpa_causal", "+ kernel fusion: compile", "+ memory pooling: in_place"
    ]  # fmt: skip


def test_no_figure_carries_more_than_its_limit_and_says_what_it_left_out():
    known = next(p for p in PROPOSALS if p.gain and p.predicted)
    points = learning_charts.foretold([known] * (MAX_POINTS + 500))
    assert max(len(t.x) for t in points.data) == MAX_POINTS
    assert points.layout.title.text == "showing 5,000 of 5,500"
    lines = learning_charts.curves({"a": [0.0] * 9000, "b": [0.0] * 9000}, "t", "u", "x (number)")
    assert sum(len(t.x) for t in lines.data) <= MAX_POINTS and "showing" in lines.layout.title.text


def test_the_baseline_has_a_tick_however_wide_the_axis():
    for low, high in ((0.98, 1.02), (0.5, 3.0), (0.06, 19.0), (1.2, 1.3)):
        proposals = [replace(PROPOSALS[0], predicted=low, gain=high)]
        ticks = learning_charts.foretold(proposals).layout.xaxis.tickvals
        assert 1.0 in ticks and len(ticks) <= 8

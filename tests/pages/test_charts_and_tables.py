"""Figures and tables as plain data: units on axes, the baseline present, the right front, nothing hostile."""

import math
import random
import subprocess
import sys

import pytest

from pages.components import charts, format, tables
from tests.pages.conftest import ROOT
from tests.pages.fake_rows import NOW, llama_trials, measurement, trial_row

ROWS = [trial_row(t) for t in llama_trials("r", NOW)]


def trace(figure, name):
    return next(t for t in figure.data if t.name == name)


def all_figures(rows):
    samples = [{"time": NOW + i, "power_w": 100.0 + i} for i in range(5)]
    return [
        charts.best_so_far(rows, NOW, 1.0),
        charts.pareto(rows, "attention_fusion=sdpa"),
        charts.pairs(measurement(1.2, 1.0, 1.0).pairs_ms),
        charts.history(samples, "power_w", "power", "W"),
    ]


@pytest.mark.parametrize("rows", [ROWS, [], ROWS[:1], [r for r in ROWS if r["outcome"] != "ok"]])
def test_every_axis_names_its_unit(rows):
    for figure in all_figures(rows):
        for axis in (figure.layout.xaxis, figure.layout.yaxis):
            assert axis.title.text.endswith(")"), axis.title.text
        assert figure.layout.uirevision


def test_ratio_charts_carry_the_baseline_even_without_candidates():
    for rows in (ROWS, []):
        pareto = charts.pareto(rows, None)
        assert (list(trace(pareto, "baseline").x), list(trace(pareto, "baseline").y)) == ([1.0], [1.0])
        assert {(s.x0, s.y0) for s in pareto.layout.shapes} == {(1.0, 0), (0, 1.0)}
        best = charts.best_so_far(rows, NOW, 1.0)
        assert [s.y0 for s in best.layout.shapes] == [1.0]


def test_the_front_equals_brute_force():
    rng = random.Random(5)
    for _ in range(200):
        points = [(rng.randint(0, 6) / 4, rng.randint(0, 6) / 4) for _ in range(rng.randint(0, 14))]

        def beaten(p, points=points):
            return any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)

        expected = {i for i, p in enumerate(points) if not beaten(p)}
        assert set(charts.front_of(points)) == expected
        assert len(charts.front_of(points)) == len(expected)


def test_the_drawn_front_is_the_brute_force_front_of_what_keeps_the_bounds():
    eligible = [(r["speed"], r["memory"]) for r in charts.one_per_recipe(ROWS) if r["outcome"] == "ok"]
    kept = [r for r in charts.one_per_recipe(ROWS) if r["outcome"] == "ok" and not r["infeasible_reason"]]
    points = [(r["speed"], r["memory"]) for r in kept if r["recipe_key"] != "baseline"] + [(1.0, 1.0)]
    front = {p for p in points if not any(q != p and q[0] >= p[0] and q[1] >= p[1] for q in points)}
    drawn = trace(charts.pareto(ROWS, None), "Pareto front")
    assert set(zip(drawn.x, drawn.y, strict=True)) == front
    assert len(eligible) > len(kept)


def test_a_candidate_outside_the_bounds_is_faded_and_not_on_the_front():
    figure = charts.pareto(ROWS, None)
    assert list(trace(figure, "outside the bounds").customdata) == ["quantization=int8_dynamic"]
    assert trace(figure, "outside the bounds").marker.color == charts.FADED


def test_the_accuracy_filter_fades_what_kept_less():
    strict = trace(charts.pareto(ROWS, None, 0.999), "outside the bounds").customdata
    assert {"quantization=int8_dynamic", "quantization=bfloat16"} == set(strict)


def test_best_so_far_never_falls_and_ends_at_the_best_searched_candidate():
    line = trace(charts.best_so_far(ROWS, NOW, 1.0), "best so far")
    assert list(line.y) == sorted(line.y)
    searched = [r["fitness"] for r in ROWS if r["purpose"] == "search" and not r["infeasible_reason"] and r["fitness"]]
    assert line.y[-1] == max(searched)


def test_failures_stand_below_everything_measured_with_their_cause():
    figure = charts.best_so_far(ROWS, NOW, 1.0)
    failed = trace(figure, "failed")
    assert len(failed.x) == 3
    assert max(failed.y) < min(r["fitness"] for r in ROWS if r["fitness"])
    assert "signal 11" in " ".join(failed.hovertext)


def test_intervals_are_drawn_as_error_bars():
    winner = next(r for r in ROWS if r["purpose"] == "final" and r["recipe_key"] != "baseline")
    star = trace(charts.pareto(ROWS, winner["recipe_key"]), "winner")
    assert star.error_x.array[0] == pytest.approx(winner["speed_high"] - winner["speed"])
    assert star.error_x.arrayminus[0] == pytest.approx(winner["speed"] - winner["speed_low"])


def test_no_figure_carries_more_than_its_limit_and_says_what_it_left_out():
    many = [dict(ROWS[1], trial_id=str(i), recipe_key=f"a={i}") for i in range(charts.MAX_POINTS + 500)]
    for figure in (charts.best_so_far(many, NOW, 1.0), charts.pareto(many, None)):
        assert max(len(t.x) for t in figure.data) <= charts.MAX_POINTS
        assert figure.layout.title.text == "showing 5,000 of 5,500"
    pairs = charts.pairs([(1.0, 2.0)] * 9000)
    assert sum(len(t.x) for t in pairs.data) <= charts.MAX_POINTS


def test_the_final_race_replaces_the_search_number_of_the_same_recipe():
    rows = charts.one_per_recipe(ROWS)
    assert len({r["recipe_key"] for r in rows}) == len(rows)
    raced = next(r for r in rows if r["recipe_key"] == "attention_fusion=sdpa_causal+kernel_fusion=compile")
    assert raced["purpose"] == "final"


def test_unknown_numbers_leave_a_gap_and_never_a_zero():
    rows = [{"time": 1.0, "power_w": 5.0}, {"time": 2.0, "power_w": math.nan}, {"time": 3.0, "power_w": None}]
    assert list(charts.history(rows, "power_w", "power", "W").data[0].y) == [5.0, None, None]
    table = tables.trials_table([dict(ROWS[1], speed=math.nan)])
    assert table["Speed"] == [None]


def test_a_download_starts_no_formula():
    rows = [{"run_id": "=1+1", "model": "@SUM(A1)", "winner_key": "+cmd|' /C calc'!A0", "speed": -1.5, "note": "x"}]
    lines = tables.csv_of(tables.leaderboard_table(rows)).splitlines()
    assert "'@SUM(A1)" in lines[1] and "'=1+1" in lines[1] and ",-1.5," in lines[1]


@pytest.mark.parametrize(
    ("value", "low", "high", "floor", "word"),
    [
        (1.30, 1.20, 1.40, 0.02, "faster"),
        (1.30, 0.99, 1.60, 0.02, "tie"),
        (1.01, 1.005, 1.015, 0.02, "tie"),
        (0.70, 0.60, 0.80, 0.02, "slower"),
        (None, None, None, 0.02, "unknown"),
        (math.nan, 0.9, 1.1, None, "unknown"),
    ],
)
def test_a_verdict_needs_an_interval_without_one_and_more_than_the_noise(value, low, high, floor, word):
    assert format.verdict_word("speed", value, low, high, floor) == word


def test_text_from_outside_cannot_become_markup():
    assert format.one_line("a\u202eb\x00c\nd") == "a b c d"
    assert "<" not in format.chart_text("<a href='javascript:x'>")
    assert len(format.plain("x" * 5000, 50)) == 50


def test_application_and_pages_import_neither_torch_nor_duckdb():
    code = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
os.environ["HYBRID_REFRESH_S"] = "0"
from pages.components import hub
from tests.pages.fake_client import busy_client
client = busy_client()
hub.open_client = lambda: client
import workers.client
from streamlit.testing.v1 import AppTest
for page in ("home", "optimize", "live", "run", "learning", "leaderboard", "devices"):
    at = AppTest.from_file({str(ROOT / "app.py")!r}, default_timeout=60)
    at.query_params["run"] = "r-done"
    at.run()
    at.switch_page(f"pages/{{page}}.py").run() if page != "home" else None
    assert not at.exception, page
print(sorted({{"torch", "duckdb"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.strip().splitlines()[-1] == "[]"

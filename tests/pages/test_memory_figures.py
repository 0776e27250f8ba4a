"""Each memory figure has one sentence: on hover, and in the documentation."""

from pathlib import Path

import pytest

from pages.components.meanings import MEMORY
from pages.components.memory_figures import memory_figures

DOCS = (Path(__file__).parents[2] / "docs" / "measurement.md").read_text()
TRIAL = {"peak_bytes": 2048, "baseline_peak_bytes": 4096, "weight_bytes": 1024, "baseline_weight_bytes": 1024}
FACTS = {
    "cold": {"baseline": {"resident_growth_bytes": 3 << 20}, "candidate": {"resident_growth_bytes": 5 << 20}},
    "warm": {"baseline": {}, "candidate": {"resident_growth_bytes": 0}},
    "gpu_process_bytes": 7 << 30,
}


@pytest.mark.parametrize("name", MEMORY)
def test_documentation_and_hover_say_the_same(name):
    label, meaning = MEMORY[name]
    assert f"| `{name}` | {label} | {meaning} |" in DOCS
    assert meaning.endswith(".") and "\n" not in meaning


def test_figures_stand_with_those_of_the_untouched_model():
    figures = {label: (value, baseline) for label, value, baseline, _ in memory_figures(TRIAL, {"memory": FACTS})}
    assert figures == {
        "Peak memory": ("2.0 KiB", "baseline 4.0 KiB"),
        "Weights": ("1.0 KiB", "baseline 1.0 KiB"),
        "Process, first call": ("5.0 MiB", "baseline 3.0 MiB"),
        "Process, later calls": ("0 B", ""),
        "GPU, whole process": ("7.0 GiB", ""),
    }


@pytest.mark.parametrize("environment", [{}, {"memory": None}, {"memory": {"cold": None}}, {"memory": {"cold": {}}}])
def test_an_older_measurement_shows_what_it_has(environment):
    assert [figure.label for figure in memory_figures(TRIAL, environment)] == ["Peak memory", "Weights"]


def test_the_result_page_shows_the_figures_with_their_meaning(client, open_page):
    metrics = {metric.label: metric for metric in open_page("run", run="r-done").metric}
    assert metrics["Peak memory"].help == MEMORY["peak_bytes"][1]
    assert metrics["Weights"].delta.startswith("baseline ")
    assert "untouched model divided by" in metrics["Memory"].help

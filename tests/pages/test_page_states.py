"""Every page in every state: nothing yet, running, finished, failed, odd rows, hostile names, no hub."""

import math
import re

import pytest
from streamlit.runtime.pages_manager import PagesManager
from streamlit.testing.v1 import app_test

from hybrid_core.records import RunState
from pages.components import hub
from tests.pages.fake_rows import NOW, llama_trials, recommendation, run_row, trial_row

PAGES = ("home", "optimize", "models", "live", "run", "learning", "leaderboard", "devices")
HOSTILE = "<img src=x onerror=alert(1)> **b** [x](javascript:alert(1)) $a$ `c`\n# h"


def texts(at):
    """All words a page shows."""
    kinds = ("title", "subheader", "markdown", "caption", "info", "warning", "error", "button", "metric", "page_link")
    shown = [str(getattr(e, "value", "")) + " " + str(getattr(e, "label", "")) for k in kinds for e in getattr(at, k)]
    # Backslashes only escape Markdown, a reader does not see them.
    return "\n".join(shown).replace("\\", "")


def assert_calm(at):
    assert not at.exception
    assert not [e for e in at.error if "could not be drawn" in e.value]
    assert "Traceback" not in texts(at)


@pytest.mark.parametrize("page", PAGES)
def test_each_page_opens_on_a_hub_that_never_ran_anything(page, empty_client, open_page):
    assert_calm(open_page(page))


@pytest.mark.parametrize("page", ["live", "run", "learning"])
@pytest.mark.parametrize("run_id", ["r-live", "r-queued", "r-done", "r-none", "r-failed", "r-cancelled"])
def test_a_run_is_drawn_in_each_of_its_states(page, run_id, client, open_page):
    assert_calm(open_page(page, run=run_id))


@pytest.mark.parametrize("page", PAGES)
def test_without_a_hub_each_page_says_one_sentence_and_what_to_do(page, client, open_page):
    client.is_down = True
    at = open_page(page)
    assert not at.exception
    assert "The hub is away" in texts(at)
    assert "nothing is lost" in texts(at)


def test_a_hub_that_comes_back_is_found_again_without_a_restart(client, open_page):
    client.is_down = True
    at = open_page("home")
    client.is_down = False
    at.run()
    assert "The hub is away" not in texts(at)
    assert "Running now" in texts(at)


@pytest.mark.parametrize("page", ["live", "run", "learning"])
@pytest.mark.parametrize("run_id", ["no-such-run", HOSTILE, "x" * 400])
def test_an_unknown_run_is_explained_with_a_way_out(page, run_id, client, open_page):
    at = open_page(page, run=run_id)
    assert_calm(at)
    assert "There is no run" in texts(at)
    assert "See all runs" in texts(at)


@pytest.mark.parametrize("page", ["live", "run", "learning"])
def test_without_a_run_in_the_address_the_latest_are_offered(page, client, open_page):
    at = open_page(page)
    assert "Choose a run" in texts(at)
    assert len(at.page_link) == len(client.runs)


def test_home_shows_what_runs_what_waits_and_what_was_found(client, open_page):
    shown = texts(open_page("home"))
    assert "9 of 14 measurements" in "".join(p.text for p in open_page("home").progress)
    assert "place 1 in the queue" in shown
    assert "faster, speed 1.35× [1.33, 1.37]" in shown
    assert "Nothing beat the untouched model" in shown
    assert "Failed: The worker ended with signal 9" in shown


def test_home_says_whether_a_recommendation_was_measured_or_is_a_claim(client, open_page):
    shown = texts(open_page("home"))
    assert "measured 7 times" in shown
    assert "1.21x speed (95 % interval 1.17 to 1.26)" in shown
    assert "a claim, not measured yet" in shown


def test_a_recommendation_fills_the_form(client, open_page):
    at = open_page("home")
    at.button(key="try_llama_0").click().run()
    assert at.session_state["opt_model"] == "llama"
    assert at.checkbox(key="opt_use_attention_fusion").value
    assert not at.checkbox(key="opt_use_quantization").value


def test_an_empty_home_teaches_the_next_click(empty_client, open_page):
    at = open_page("home")
    assert "No run yet" in texts(at)
    assert [link.label for link in at.page_link] == ["Start the first run"]


def test_cancelling_asks_once_more_and_repeats_the_hubs_sentence(client, open_page):
    at = open_page("live", run="r-live")
    at.button(key="cancel_r-live").click().run()
    assert client.cancelled == ["r-live"]
    assert "stops as soon as the current candidate" in texts(at)


def test_live_says_the_candidate_and_phase_of_the_moment(client, open_page):
    shown = texts(open_page("live", run="r-live"))
    assert "attention fusion: sdpa_causal + kernel fusion: compile**, timing" in shown


def test_live_lists_every_candidate_with_the_cause_of_its_failure(client, open_page):
    table = open_page("live", run="r-live").dataframe[0].value
    assert len(table) == 9
    failed = table[table["Result"] == "unsupported here"]
    assert "the batch is 1, so there is nothing to slice" in set(failed["Why"])


def test_live_of_a_run_that_ended_links_to_its_result(client, open_page):
    at = open_page("live", run="r-done")
    assert "See the result" in [link.label for link in at.page_link]


def test_the_result_shows_each_ratio_with_interval_and_verdict(client, open_page):
    metrics = {m.label: m for m in open_page("run", run="r-done").metric}
    assert (metrics["Speed"].value, metrics["Speed"].delta) == ("1.35×", "faster")
    assert metrics["Memory"].delta == "smaller"
    assert metrics["Accuracy kept"].delta == "tie"
    assert "1.000" in metrics["Fitness"].delta


def test_a_run_without_a_gain_says_so_in_a_sentence(client, open_page):
    shown = texts(open_page("run", run="r-none"))
    assert "The untouched model stays" in shown
    assert "Nothing was faster than the untouched model within the accuracy bound" in shown


def test_the_result_offers_code_and_recipe_to_take_away(client, open_page):
    at = open_page("run", run="r-done")
    assert any("sdpa_causal" in code.value and code.language == "python" for code in at.code)
    assert any("sdpa_causal" in code.value and code.language == "json" for code in at.code)


def test_the_filter_of_candidates_lives_in_the_address(client, open_page):
    at = open_page("run", run="r-done", show="failed")
    (table,) = [d.value for d in at.dataframe if "Result" in d.value]
    assert set(table["Result"]) == {"unsupported here", "crashed"}


def test_an_unknown_filter_in_the_address_is_explained_and_ignored(client, open_page):
    at = open_page("run", run="r-done", show="bogus")
    assert "unknown here" in at.info[0].value
    assert [len(d.value) for d in at.dataframe if "Result" in d.value] == [14]


def test_leaderboard_filters_by_the_address(client, open_page):
    assert len(open_page("leaderboard").dataframe[0].value) == 2
    only = open_page("leaderboard", model="llama").dataframe[0].value
    assert list(only["Model"]) == ["llama tiny"]


def test_devices_says_calmly_that_there_is_no_gpu(client, open_page):
    at = open_page("devices")
    assert "No GPU was found" in texts(at)


def test_devices_shows_a_gpu_with_its_processes(client, open_page):
    client.gpus = 1
    at = open_page("devices")
    labels = [m.label for m in at.metric]
    assert {"GPU utilization", "Power", "Temperature", "Clock"} <= set(labels)
    assert "No GPU was found" not in texts(at)
    assert any("Memory (MiB)" in d.value.columns for d in at.dataframe)


@pytest.mark.parametrize("page", PAGES)
def test_rows_full_of_nan_and_null_are_drawn(page, client, open_page):
    names = ("fitness", "speed", "memory", "accuracy", "baseline_fitness", "started_at", "ended_at", "budget_s")
    for i, row in enumerate(client.runs.values()):
        for name in row:
            if name.startswith(names):
                row[name] = math.nan if i % 2 else None
    rows = [trial_row(t) for t in llama_trials("r-done", NOW)]
    for i, row in enumerate(rows):
        for name, value in row.items():
            if isinstance(value, float | int):
                row[name] = math.nan if i % 2 else None
    client.extra_rows = {"trials": rows, "device_samples": [{"time": NOW, "utilization_percent": math.nan}] * 3}
    assert_calm(open_page(page, run="r-done"))


@pytest.mark.parametrize("page", PAGES)
def test_hostile_names_are_shown_as_text(page, client, open_page):
    for row in client.runs.values():
        row.update(model=HOSTILE, workload_label=HOSTILE, cause=HOSTILE, note=HOSTILE, device="cpu")
    rows = [trial_row(t) | {"reason": HOSTILE, "infeasible_reason": HOSTILE} for t in llama_trials("r-done", NOW)]
    client.extra_rows = {"trials": rows}
    client.the_catalog["models"][0].update(title=HOSTILE, description=HOSTILE)
    client.the_catalog["strategies"][0].update(title=HOSTILE, purpose=HOSTILE)
    client.recommendations = {"llama": [recommendation(sentence=HOSTILE)]}
    at = open_page(page, run="r-done")
    assert_calm(at)
    for element in (*at.markdown, *at.caption, *at.info, *at.warning, *at.error, *at.subheader):
        assert not re.search(r"(?<!\\)<img", element.value)
        assert not re.search(r"(?<!\\)\]\(javascript", element.value)
        assert not element.proto.allow_html if hasattr(element.proto, "allow_html") else True
    for chart in at.get("plotly_chart"):
        assert "<img" not in chart.proto.spec


def test_an_unexpected_error_is_one_sentence_and_a_trace_in_the_log(client, open_page, monkeypatch, caplog):
    def broken(name, **params):
        raise ZeroDivisionError("secret detail")

    monkeypatch.setattr(client, "query", broken)
    at = open_page("leaderboard")
    assert not at.exception
    assert "could not be drawn" in at.error[0].value
    assert "secret detail" not in texts(at)
    number = re.search(r"under error (\w+)", at.error[0].value).group(1)
    assert any(number in r.getMessage() and r.exc_info for r in caplog.records)


@pytest.mark.parametrize("page", [p for p in PAGES if p != "home"])
def test_a_deep_link_into_a_fresh_server_still_goes_through_app(page, client, open_page, monkeypatch):
    class ColdPagesManager(PagesManager):
        """A server that has found the folder by itself and has not read the table yet."""

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            PagesManager.uses_pages_directory = True

    monkeypatch.setattr(app_test, "PagesManager", ColdPagesManager)
    client.is_down = True
    at = open_page(page, run="r-done")
    # Only app.py draws the boundary's sentence, so it must have run.
    assert not at.exception
    assert "The hub is away" in texts(at)


def test_the_seam_decodes_json_and_drops_nan(client):
    row = hub._ready({"a_json": '{"x": 1}', "b": math.nan, "c_json": "not json", "d": 2})
    assert row == {"a": {"x": 1}, "b": None, "c": None, "d": 2}


def test_the_fakes_run_rows_have_the_contracts_columns():
    wanted = "run_id state cause note created_at started_at ended_at model size workload workload_label device threads"
    wanted += " method budget_s config_json progress_json winner_key fitness fitness_low fitness_high baseline_fitness"
    wanted += " speed speed_low speed_high memory memory_low memory_high accuracy accuracy_low accuracy_high"
    assert {*wanted.split(), "trials", "trials_ok", "trials_failed"} == set(run_row("r", RunState.QUEUED, []))

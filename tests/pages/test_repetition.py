"""The command that measures a candidate again, and the page of a run that does nothing else."""

import json

from hybrid_core.records import Purpose, RunState
from tests.pages.fake_rows import trial
from tests.pages.test_page_states import HOSTILE, assert_calm, texts

RUN = "r-done"
ORIGINAL = f"{RUN}:search:quantization=int8_dynamic"


def codes(at):
    return [code.value for code in at.code]


def test_a_measured_candidate_offers_the_command_to_measure_it_again(client, open_page):
    at = open_page("run", run=RUN)
    shown = next(code for code in codes(at) if code.startswith("python -m workers repeat"))
    assert shown.split()[-1] in {row["trial_id"] for row in client.query("trials", run_id=RUN)}


def add_repetition(client, verdict="inside", cause="it agrees"):
    made = trial("r-again", {"quantization": "int8_dynamic"}, 1000.0, Purpose.REPEAT, numbers=(1.2, 1.0, 1.0))
    client.add_run("r-again", RunState.FINISHED, [made])
    row = client.runs["r-again"]
    row["config_json"] = json.dumps({**json.loads(row["config_json"]), "repeats": ORIGINAL})
    row["cause"] = f"{ORIGINAL} measured again: {cause}"
    ends = {"value": 1.2, "low": 1.1, "high": 1.3}
    client.results["r-again"] = {
        "findings": [{"name": "speed", "original": ends, "repeated": ends, "verdict": verdict}],
        "differences": {"load_average_before": [[0.1], [2.0]]},
    }


def test_a_repetition_is_shown_as_one_and_crowns_nobody(client, open_page):
    add_repetition(client)
    at = open_page("run", run="r-again")
    assert_calm(at)
    shown = texts(at)
    assert "Measured again" in shown and "it agrees" in shown and "The untouched model stays" not in shown
    assert not any(word in shown for word in ("Take it away", "Speed against memory", "The search ended"))
    assert "load_average_before" in shown
    assert any("inside the interval of then" in table.value.to_string() for table in at.dataframe)
    assert "it agrees" in texts(open_page("home"))


def test_what_a_repetition_says_cannot_break_the_page(client, open_page):
    add_repetition(client, verdict=HOSTILE, cause=HOSTILE)
    assert_calm(open_page("run", run="r-again"))

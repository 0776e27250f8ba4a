"""The learning page in every state of a run: who proposed what, what a policy learned, who became a parent."""

import copy
import json
import math

import pytest

from hybrid_core.config import HybridOptimizationConfig, RunConfig
from hybrid_core.records import to_json
from pages.components import events, learned, proposed
from tests.pages import fake_learning
from tests.pages.fake_rows import NOW, llama_trials, trial_row
from tests.pages.test_page_states import HOSTILE, assert_calm, texts

ROWS = [trial_row(t) for t in llama_trials("r", NOW)]
TOLD = [{"kind": kind, "data": data} for kind, data in fake_learning.told()]


def charted(at):
    return [chart.proto.alt for chart in at.get("plotly_chart")]


def table_with(at, column):
    return next(d.value for d in at.dataframe if column in d.value)


def test_a_finished_run_shows_predictions_proposers_training_and_parents(client, open_page):
    at = open_page("learning", run="r-done")
    assert_calm(at)
    assert [s.value for s in at.subheader] == [
        "Who proposed what, and what came of it", "What reinforcement learning learned", "Who became a parent"
    ]  # fmt: skip
    shown = texts(at)
    assert "VAPO + DAPO + ORZ" in shown
    assert "Searched by **Adaptive**" in shown
    assert {"Portfolio", "Reinforcement learning", "Surrogate"} <= set(table_with(at, "Proposer")["Proposer"])


def test_the_shares_of_all_proposers_multiply_to_the_best_that_was_found():
    proposals = proposed.proposals_of(TOLD, ROWS, 1.0)
    accounts = proposed.accounts_of(proposals, ROWS, 1.0)
    fair = [r["fitness"] for r in ROWS if r["purpose"] == "search" and r["fitness"] and not r["infeasible_reason"]]
    assert math.prod(a.raised for a in accounts) == pytest.approx(max(fair))
    assert sum(a.proposed for a in accounts) == len(fake_learning.PROPOSED)


def test_what_the_run_opened_with_is_nobodys_proposal():
    proposals = proposed.proposals_of(TOLD[3:], ROWS, 1.0)
    opening = next(a for a in proposed.accounts_of(proposals, ROWS, 1.0) if a.by == proposed.OPENING)
    assert (opening.measured, opening.failed) == (2, 1)


def test_what_the_survey_refused_was_neither_proposed_nor_opened_with():
    rows = [{**row, "iteration": 0} if row["outcome"] == "unsupported" else row for row in ROWS]
    accounts = proposed.accounts_of([], rows, 1.0)
    assert [(a.by, a.failed) for a in accounts] == [(proposed.OPENING, 1)]


def test_predictions_become_factors_with_their_95_percent_and_meet_their_trial():
    first = proposed.proposals_of(TOLD, ROWS, 1.0)[0]
    assert first.predicted == pytest.approx(math.exp(0.09))
    assert first.predicted_high / first.predicted == pytest.approx(math.exp(1.96 * 0.08))
    assert first.gain == next(r["fitness"] for r in ROWS if r["recipe_key"] == first.key)
    failed = next(p for p in proposed.proposals_of(TOLD, ROWS, 1.0) if p.by == "local")
    assert (failed.outcome, failed.gain, failed.predicted) == ("crashed", None, None)


def test_a_proposal_counts_for_the_iteration_in_which_it_was_measured():
    late = copy.deepcopy(TOLD[:1])
    late[0]["data"]["iteration"] = 7
    (never, once) = proposed.proposals_of([*late, *TOLD[:1]], ROWS, 1.0)
    assert (never.outcome, once.outcome) == ("", "ok")


def test_older_runs_that_told_only_their_parents_still_list_the_children():
    (child,) = proposed.proposals_of([{"kind": "selection", "data": fake_learning.drawn()}], ROWS, 1.0)
    assert (child.by, child.key, child.predicted) == ("selection", "kernel_fusion=compile", None)


@pytest.mark.parametrize(
    ("kind", "data"),
    [
        ("selection", {"details": {"trained": True, "reason": "a"}}),
        ("proposals", {"notes": {"trained": True, "reason": "a"}}),
        ("proposals", {"notes": {"learning": {"trained": True, "reason": "a"}}}),
        ("proposals", {"notes": {"rl": {"learning": {"trained": True, "reason": "a"}}}}),
        ("proposals", {"notes": {"rl": {"trained": True, "reason": "a"}}}),
    ],
)
def test_the_report_of_a_policy_is_found_wherever_a_search_puts_it(kind, data):
    (told,) = learned.trainings_of([{"kind": kind, "data": {"iteration": 2, **data}}])
    assert (told.iteration, told.data["reason"], told.kind) == (2, "a", kind)


def test_the_same_report_told_again_is_one_training_and_the_latest_comes_first():
    def event(reason):
        return {"kind": "proposals", "data": {"iteration": 1, "notes": {"rl": {"trained": True, "reason": reason}}}}

    found = learned.trainings_of([event("a"), event("a"), event("b")])
    assert [(t.number, t.data["reason"]) for t in found] == [(2, "b"), (1, "a")]


def test_why_no_policy_was_asked_last_is_said_until_one_is():
    def event(trained, reason):
        return {"kind": "proposals", "data": {"notes": {"rl": {"learning": {"trained": trained, "reason": reason}}}}}

    few = event(False, "2 of the 4 recipes this needs have worked so far.")
    assert learned.untrained_reason([few]) == few["data"]["notes"]["rl"]["learning"]["reason"]
    assert learned.trainings_of([few]) == []
    assert learned.untrained_reason([few, event(True, "a")]) == learned.untrained_reason([]) == ""


def test_several_trainings_are_chosen_from_the_latest_first(client, open_page):
    first = ("selection", {**fake_learning.drawn("rl"), "details": fake_learning.policy_report(20, variant="GRPO")})
    client.told["r-done"] = [first, *fake_learning.told()]
    at = open_page("learning", run="r-done")
    chooser = at.selectbox(key="learning_training")
    assert chooser.options == ["latest", "2, in iteration 1", "1, in iteration 1"]
    assert "VAPO + DAPO + ORZ" in texts(at)
    chooser.select("1, in iteration 1").run()
    assert "GRPO" in texts(at) and "VAPO + DAPO + ORZ" not in texts(at)


def test_a_run_without_a_policy_says_so_and_how_to_get_one(client, open_page):
    assert "The policy's turn has not come yet" in texts(open_page("learning", run="r-live"))
    client.told["r-done"] = fake_learning.told(3)
    at = open_page("learning", run="r-done")
    assert "The policy's turn did not come" in texts(at)
    assert "Start another run" in [link.label for link in at.page_link]
    client.runs["r-done"]["method"] = "rank"
    at = open_page("learning", run="r-done")
    assert "Reinforcement learning takes no part in this run" in texts(at)
    assert "Start a run that trains a policy" in [link.label for link in at.page_link]


def test_a_closed_gate_says_that_reinforcement_learning_stepped_back(client, open_page):
    gate = {"passed": False, "sentence": "on models left out the surrogate is no better than chance"}
    notes = {"rl": {"trained": False, "reason": "the gate is closed", "variant": "VAPO", "gate": gate}}
    client.told["r-done"] = [("proposals", {"iteration": 1, "proposals": [], "notes": notes})]
    at = open_page("learning", run="r-done")
    assert_calm(at)
    assert "stepped back. On models left out the surrogate is no better than chance" in at.info[0].value
    assert not [alt for alt in charted(at) if "Return" in alt]
    lines = events.event_lines([{"kind": "proposals", "time": NOW, "data": client.told["r-done"][0][1]}] * 2)
    assert sum("stepped back" in line for line in lines) == 1


@pytest.mark.parametrize(
    ("run_id", "said", "link"),
    [("r-queued", "Nothing was proposed yet", "Watch it"), ("r-none", "larger budget", "Start another run")],
)
def test_a_run_that_told_nothing_says_why_and_names_the_next_step(run_id, said, link, client, open_page):
    at = open_page("learning", run=run_id)
    assert said in texts(at)
    assert link in [each.label for each in at.page_link]


def test_a_repetition_and_a_run_without_choice_say_that_nothing_was_searched(client, open_page):
    repeated = RunConfig(model="llama", repeats="r:search:baseline")
    at_once = RunConfig(model="llama", options=HybridOptimizationConfig(enable_candidate_selection=False))
    for config, said in ((repeated, "Nothing is searched"), (at_once, "Choosing is switched off")):
        client.runs["r-none"]["config_json"] = json.dumps(to_json(config))
        assert said in texts(open_page("learning", run="r-none"))


@pytest.mark.parametrize("kept", [(), ("update_groups", "group_kept", "value_pretraining"), ("entropy", "thresholds")])
def test_a_report_that_lacks_something_draws_the_rest(kept, client, open_page):
    report = {k: v for k, v in fake_learning.policy_report().items() if k in ("trained", *kept)}
    client.told["r-done"] = [("proposals", {"iteration": 1, "proposals": [], "notes": {"learning": report}})]
    at = open_page("learning", run="r-done")
    assert_calm(at)
    assert len(charted(at)) == len({"value_pretraining", "entropy", "thresholds"} & set(kept))


def test_every_list_of_a_report_is_drawn_and_nothing_without_one(client, open_page):
    with_all = charted(open_page("learning", run="r-done"))
    assert sum("over the training" in alt for alt in with_all) == 5
    bare = {"trained": True, "reason": "r", "returns": [0.1], "entropy": []}
    client.told["r-done"] = [("proposals", {"iteration": 1, "proposals": [], "notes": {"learning": bare}})]
    assert charted(open_page("learning", run="r-done")) == ["Return of the recipes of each training group"]


def test_taking_the_fittest_and_fronts_are_said_in_words(client, open_page):
    by_front = {"probabilities": {"a": 0.7, "b": 0.3}, "fronts": {"a": 0, "b": 1}, "objectives": ["speed", "memory"]}
    for details, said in (
        (by_front, "1 of 2 are beaten by no other"),
        ({"truncation": True}, "the fittest were taken"),
    ):
        client.told["r-done"] = [("selection", {**fake_learning.drawn("pareto"), "details": details})]
        assert said in texts(open_page("learning", run="r-done"))


def test_odd_and_hostile_events_are_drawn_as_text(client, open_page):
    report = fake_learning.policy_report(returns=[None, "x", 0.1], reason=HOSTILE, variant=HOSTILE)
    report["chosen_settings"] = {HOSTILE: {HOSTILE: 0.5, "off": None}}
    entry = {"key": HOSTILE, "by": HOSTILE, "predicted": 900.0, "sd": "wide"}
    client.told["r-done"] = [
        ("proposals", {"iteration": None, "proposals": [entry, 3, None], "notes": {"rl": report, "x": 1}}),
        ("proposals", {"proposals": "none", "notes": None}),
        ("selection", {"method": HOSTILE, "parents": [HOSTILE, 4], "details": {"probabilities": {HOSTILE: 0.5}}}),
    ]
    at = open_page("learning", run="r-done")
    assert_calm(at)
    for chart in at.get("plotly_chart"):
        assert "<img" not in chart.proto.spec


def test_the_result_and_the_live_page_link_to_how_it_was_searched(client, open_page):
    for page, label in (("run", "Who proposed what, and what was learned"), ("live", "How it is searched")):
        at = open_page(page, run="r-done")
        (link,) = [each for each in at.page_link if each.label == label]
        assert "run=r-done" in link.proto.query_string
    assert "Adaptive" in json.dumps([t.value.to_dict() for t in open_page("run", run="r-done").table])


def test_the_event_log_tells_a_proposal_with_its_prediction():
    (line,) = events.event_lines([{"kind": "proposals", "time": NOW, "data": fake_learning.told(1)[0][1]}])
    assert "adaptive proposes" in line and f"{math.exp(0.09):.3f}" in line.replace("\\", "")

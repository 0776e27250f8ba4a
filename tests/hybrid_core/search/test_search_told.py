"""What a search is told before, and what it tells while it runs."""

import json
import sys
import types

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.records import Estimate

KINDS = ("progress", "trial_started", "trial_finished")


def row(key, speed, device="cpu", outcome="ok", **changes):
    estimate = Estimate(speed, speed - 0.02, speed + 0.02)
    exact = Estimate.exact(1.0)
    shared = {"model": "planted", "family": "planted", "workload": "forward", **changes}
    return HistoryRow(
        recipe_key=key, device=device, outcome=outcome, speed=estimate, memory=exact, accuracy=exact, **shared
    )


def test_recommendations_from_history_are_measured_first(search, planted):
    history = [row("attention_fusion=sdpa+memory_pooling=static_cache", 1.4), row("quantization=int8_dynamic", 0.7)]
    result, landscape, _ = search(history=history)
    assert landscape.calls[1] == ("search", "attention_fusion=sdpa+memory_pooling=static_cache")
    assert result.recommended_keys == ("attention_fusion=sdpa+memory_pooling=static_cache",)


def test_history_is_not_used_when_it_is_switched_off(search, planted):
    history = [row("attention_fusion=sdpa+memory_pooling=static_cache", 1.4)]
    result, landscape, _ = search(history=history, options=planted.plain_options(enable_adaptive_hybrid=False))
    assert "+" not in landscape.calls[1][1] and result.recommended_keys == ()


def test_history_of_recipes_that_are_not_legal_here_is_ignored(search):
    result, _, _ = search(history=[row("attention_fusion=gone", 3.0)])
    assert result.recommended_keys == ()


def test_every_event_is_json_and_complete(search):
    result, _, told = search(budget_s=700)
    for kind, data in told.events:
        json.dumps(data, allow_nan=False)
        assert kind in {*KINDS, "round_started", "round_finished", "selection", "skipped", "synergy", "result"}
    started = [event["trial_id"] for event in told.of("trial_started")]
    assert len(started) == len(told.of("trial_finished")) == len(set(started))
    (end,) = told.of("result")
    assert end["winner_key"] == result.winner.key and end["stop_reason"] == result.stop_reason
    assert end["speed_improvement"]["value"] == result.winner_trial.measurement.speed_improvement.value
    assert set(end["front"]) == set(result.front_keys)
    assert sum(end["counts"].values()) == len(started)


def test_trial_names_carry_the_run(search):
    _, _, told = search(run_id="r1")
    ids = [event["trial_id"] for event in told.of("trial_started")]
    assert ids[0] == "r1:baseline:baseline" and ids[1].startswith("r1:search:") and ids[-1].startswith("r1:final:")
    rounds = [event["trial_id"] for event in told.of("round_started")]
    assert rounds[0] == "r1:baseline.1:baseline" and rounds[-1].startswith("r1:final.3:")


def test_progress_never_promises_more_than_the_budget_and_ends_at_zero(search):
    _, _, told = search(budget_s=200)
    progress = told.of("progress")
    assert progress[-1]["stage"] == "done" and progress[-1]["remaining_s"] == 0
    searching = [event for event in progress if event["stage"] in ("baseline", "search")]
    assert all(0 <= event["remaining_s"] <= 200 - event["elapsed_s"] + 1e-9 for event in searching)
    assert all(event["done"] <= event["planned"] for event in progress)
    done = [event["done"] for event in progress]
    assert done == sorted(done)


def test_unavailable_settings_are_said_with_their_reason(search, planted):
    space = planted.make_space(unavailable={"quantization=fp8": "this device has no float8 units"})
    _, _, told = search(space=space)
    assert {"key": "quantization=fp8", "reason": "this device has no float8 units"} in told.of("skipped")


def test_the_rl_method_gets_only_eligible_candidates_and_its_details_are_told(search, planted, monkeypatch):
    seen = []

    class RLSelector:
        def __init__(self, options, seed):
            self.seed = seed

        def choose(self, scored, count):
            seen.append([candidate.recipe.key for candidate in scored])
            return [0] * count, {"episodes": 7}

    fake = types.ModuleType("hybrid_core.rl.selector")
    fake.RLSelector = RLSelector
    monkeypatch.setitem(sys.modules, "hybrid_core.rl.selector", fake)
    options = planted.plain_options(enable_rl_optimization=True)
    _, _, told = search(budget_s=900, options=options)
    assert seen and not any("bfloat16" in key for keys in seen for key in keys)
    event = told.of("selection")[0]
    assert event["method"] == "rl" and event["details"] == {"episodes": 7}
    assert event["parents"] == [seen[0][0]] * 5

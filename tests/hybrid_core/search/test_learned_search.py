"""A whole run with the learned search: every variant ends with a winner, and its events carry what the page draws."""

import json

import pytest

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.records import Estimate

QUICK = {"rl_max_episodes": 8, "rl_hidden_dim": 8, "rl_learning_rate": 5e-3}
VARIANTS = {
    "GRPO": {"enable_dapo": False, "enable_vapo": False, "enable_orz": False},
    "DAPO": {"enable_vapo": False, "enable_orz": False},
    "VAPO": {"enable_dapo": False, "enable_orz": False},
    "ORZ": {"enable_dapo": False, "enable_vapo": False},
    "VAPO + DAPO + ORZ": {},
}


def run(search, landscape=None, history=(), **changes):
    options = HybridOptimizationConfig(search_method="rl", **QUICK | changes)
    result, _, told = search(landscape, options=options, history=history, family="planted", budget_s=100_000.0)
    return result, told.of("proposals")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_run_with_every_variant_ends_with_a_winner_and_tells_its_curves(search, variant):
    result, proposals = run(search, max_iterations=2, **VARIANTS[variant])
    assert result.improved and result.winner_trial.purpose.value == "final"
    json.dumps(proposals, allow_nan=False)
    reports = [data["notes"]["learning"] for data in proposals if "learning" in data["notes"]]
    trained = [report for report in reports if report["trained"]]
    assert trained and {report["variant"] for report in reports} == {variant}
    assert all(len(report["returns"]) == QUICK["rl_max_episodes"] for report in trained)
    # It steps back first, with a reason, and learns once four recipes have worked.
    assert reports[0]["trained"] is False and reports[0]["reason"]


def test_a_run_whose_earlier_models_do_not_predict_one_another_says_so_and_still_finds_a_winner(search, planted):
    landscape = planted.Landscape()
    keys = [recipe.key for recipe in planted.make_space(landscape.effects).recipes if not recipe.is_baseline]
    rows = []
    for number in range(4):
        for place, key in enumerate(keys):
            # Every model of the history orders the recipes in a way of its own.
            speed = 1.0 + ((place * (7, 11, 13, 17)[number] + 5 * number) % len(keys)) / len(keys)
            values = [Estimate(v, 0.99 * v, 1.01 * v) for v in (speed, 1.0, 1.0)]
            rows.append(HistoryRow(key, f"m{number}", f"f{number}", "forward", "cpu", "ok", *values))
    result, proposals = run(search, landscape, rows, max_iterations=2)
    gates = [data["notes"]["learning"]["gate"] for data in proposals]
    assert {gate["case"] for gate in gates} == {"failed"}
    assert all("portfolio and local search propose instead" in gate["sentence"] for gate in gates)
    assert {p["by"] for data in proposals for p in data["proposals"]} == {"portfolio", "local"}
    assert result.improved

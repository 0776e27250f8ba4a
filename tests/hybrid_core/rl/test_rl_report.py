"""The report: exactly the keys that its docstring promises, plain numbers, lists of matching length."""

from __future__ import annotations

import json
import re

import pytest

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.optimizer import GROUP_SIZE, HybridRLOptimizer
from hybrid_core.rl.report import learning_report, likeliest, untrained_report
from hybrid_core.rl.tree import Slot

SLOTS = (Slot("a", ("1", "2")), Slot("b", ("1",)))
SCORES = {"baseline": 1.0, "a=1": 1.2, "a=2": 0.9, "b=1": 1.1}
PER_GROUP = ("returns", "best_returns", "group_accuracy", "thresholds", "group_kept")
PER_UPDATE = (
    "update_groups",
    "policy_loss",
    "entropy",
    "approx_kl",
    "clip_fraction_per_update",
    "clip_high_per_update",
    "clip_low_per_update",
)


@pytest.fixture(scope="module")
def agent() -> HybridRLOptimizer:
    options = HybridOptimizationConfig(rl_max_episodes=20, rl_hidden_dim=16, rl_learning_rate=5e-3)
    learner = HybridRLOptimizer(options, RecipeGame(SLOTS, SCORES), seed=1)
    learner.imitate(["a=1"])
    learner.train_rl_optimizer()
    return learner


def test_the_docstring_names_every_key_and_no_other(agent):
    text = learning_report.__doc__.split("About the whole:")[1]
    named = {name for name in re.findall(r"[a-z][a-z_]+", text)}
    report = learning_report(agent, "because")
    assert set(report) <= named
    # Every word before a colon at the start of a line or after a comma of such a list is a key.
    listed = {
        name.strip()
        for line in text.splitlines()
        for part in re.findall(r"(?:^ {8}|; )([a-z_, ]+)(?: \([^)]*\))?(?:, [a-z_]+ \([^)]*\))*:", line)
        for name in part.split(",")
    }
    assert listed - {""} <= set(report)
    assert len(listed) > 15


def test_every_number_is_plain_and_survives_json(agent):
    report = learning_report(agent, "because", {"passed": True, "figure": float("nan")})
    assert json.loads(json.dumps(report, allow_nan=False)) == report
    assert report["gate"] == {"passed": True, "figure": None}


def test_lists_have_one_entry_per_group_or_per_update(agent):
    report = learning_report(agent, "because")
    assert {len(report[name]) for name in PER_GROUP} == {20} == {report["groups"]}
    assert {len(report[name]) for name in PER_UPDATE} == {report["updates"]}
    assert len(report["value_loss"]) == report["updates"] > 0
    assert report["episodes"] == 20 * GROUP_SIZE
    assert report["update_groups"] == sorted(set(report["update_groups"]))


def test_the_filter_rate_is_the_share_of_groups_set_aside(agent):
    report = learning_report(agent, "because")
    assert report["filter_rate"] == pytest.approx(1 - sum(report["group_kept"]) / 20)
    assert report["kept_groups"] == sum(report["group_kept"])
    for accuracy, kept in zip(report["group_accuracy"], report["group_kept"], strict=True):
        assert kept is (0 < accuracy < 1)


def test_clipped_shares_add_up_and_their_mean_is_the_figure_of_the_whole(agent):
    report = learning_report(agent, "because")
    both = zip(report["clip_high_per_update"], report["clip_low_per_update"], strict=True)
    assert report["clip_fraction_per_update"] == pytest.approx([high + low for high, low in both], abs=2e-6)
    mean = sum(report["clip_fraction_per_update"]) / report["updates"]
    assert report["clip_fraction"] == pytest.approx(mean, abs=1e-6)


def test_chosen_settings_are_shares_of_each_slot(agent):
    chosen = learning_report(agent, "because")["chosen_settings"]
    assert {slot: list(shares) for slot, shares in chosen.items()} == {"a": ["off", "1", "2"], "b": ["off", "1"]}
    assert [sum(shares.values()) for shares in chosen.values()] == pytest.approx([1.0, 1.0], abs=1e-5)


def test_the_likeliest_recipes_are_ordered_and_say_what_their_reward_rests_on(agent):
    rows = likeliest(agent, 6)
    assert [row["probability"] for row in rows] == sorted((row["probability"] for row in rows), reverse=True)
    assert sum(row["probability"] for row in rows) == pytest.approx(1.0, abs=1e-5)
    assert {row["recipe"] for row in rows if row["is_measured"]} == set(SCORES)


def test_where_nothing_was_trained_the_reason_the_variant_and_the_gate_are_told():
    options = HybridOptimizationConfig(enable_vapo=False)
    report = untrained_report(options, "too little is known", {"case": "none"})
    assert report == {
        "trained": False,
        "reason": "too little is known",
        "variant": "DAPO + ORZ",
        "enable_dapo": True,
        "enable_orz": True,
        "enable_vapo": False,
        "gate": {"case": "none"},
    }

"""What a training tells the page: one dictionary of plain numbers, the same whoever trained.

The keys are a contract with the learning page, so they are listed once, in `learning_report`. Everything is JSON-able;
a number that is not known is None, a list that does not apply is empty.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.rl.optimizer import GROUP_SIZE, HybridRLOptimizer
from hybrid_core.rl.rollouts import setting_shares
from hybrid_core.rl.variants import SWITCHES, variant_name

LIKELIEST = 5
DIGITS = 6


def learning_report(learner: HybridRLOptimizer, reason: str, gate: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What the last training of `learner` did. Rewards are gains over the untouched model in the caller's unit.

    The caller says the unit: a selector pays in fitness, a searcher in the natural logarithm of relative fitness.

    About the whole:
        trained: True. `untrained_report` has False, with `reason` and the names and switches only.
        reason: one sentence: what was learned from.
        variant: "GRPO", "DAPO", ..., "VAPO + DAPO + ORZ"; enable_dapo, enable_vapo, enable_orz: the switches.
        groups, episodes, kept_groups, updates, threshold_moves: counts; filter_rate: share of groups set aside.
        clip_fraction: mean over the updates; policy_lambda: lambda of the policy's advantages.
        value_pretraining: {} or first_loss, last_loss, explained_variance, losses (one per step).
        behaviour_cloning: {} or examples, first_loss, last_loss.
        zones: {} or number of states in each of good, neutral, bad, unknown.
        zone_levels: {} or the potential of each zone.
        chosen_settings: slot -> {"off" or setting: probability} under the policy in the end; each slot sums to 1.
        likeliest: up to five of {recipe, probability, reward, is_measured}, likeliest first.
        gate: {} or what `gate.py` found: may surrogates from other models be trusted here.

    One entry per group (x axis: groups rolled out):
        returns, best_returns: mean and best reward of the group's episodes.
        group_accuracy, thresholds, group_kept: share that reached the threshold, that threshold, whether it trained.

    One entry per update (x axis: `update_groups`, the groups rolled out until then):
        policy_loss, value_loss (empty without a critic), entropy (nats), approx_kl (old to new policy, nats).
        clip_fraction_per_update, clip_high_per_update, clip_low_per_update: share of decisions that a bound held.
    """
    metrics, history = learner.performance_metrics, learner.episode_history
    kept = sum(entry["kept"] for entry in history)
    clipped = metrics["clip_fraction"]
    return {
        "trained": True,
        "reason": reason,
        **names_and_switches(learner.config),
        "groups": len(history),
        "episodes": len(history) * GROUP_SIZE,
        "kept_groups": kept,
        "filter_rate": 1.0 - kept / len(history) if history else 0.0,
        "updates": len(metrics["policy_loss"]),
        "threshold_moves": learner.sampling.threshold_moves,
        "clip_fraction": sum(clipped) / len(clipped) if clipped else 0.0,
        "policy_lambda": learner.policy_lambda,
        "value_pretraining": _plain(learner.value_pretraining),
        "behaviour_cloning": _plain(learner.behaviour_cloning),
        "zones": learner.zones.counts if learner.zones else {},
        "zone_levels": _plain(learner.zones.levels) if learner.zones else {},
        "chosen_settings": _plain(setting_shares(learner.log_probabilities(), learner.env)),
        "likeliest": likeliest(learner),
        "gate": _plain(gate or {}),
        "returns": _plain([entry["mean"] for entry in history]),
        "best_returns": _plain([entry["best"] for entry in history]),
        "group_accuracy": _plain([entry["accuracy"] for entry in history]),
        "thresholds": _plain([entry["threshold"] for entry in history]),
        "group_kept": [bool(entry["kept"]) for entry in history],
        "update_groups": [int(seen) for seen in metrics["groups_seen"]],
        "policy_loss": _plain(metrics["policy_loss"]),
        "value_loss": _plain(metrics["value_loss"]),
        "entropy": _plain(metrics["entropy"]),
        "approx_kl": _plain(metrics["approx_kl"]),
        "clip_fraction_per_update": _plain(clipped),
        "clip_high_per_update": _plain(metrics["clip_high"]),
        "clip_low_per_update": _plain(metrics["clip_low"]),
    }


def untrained_report(
    options: HybridOptimizationConfig, reason: str, gate: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """The same where nothing was trained: `trained` False, `reason` why, `variant`, the switches and the gate."""
    return {"trained": False, "reason": reason, **names_and_switches(options), "gate": _plain(gate or {})}


def names_and_switches(options: HybridOptimizationConfig) -> dict[str, Any]:
    """`variant` and the three switches."""
    return {"variant": variant_name(options), **{name: getattr(options, name) for name in sorted(SWITCHES.values())}}


def likeliest(learner: HybridRLOptimizer, count: int = LIKELIEST) -> list[dict[str, Any]]:
    """The recipes that the policy would build most often."""
    game = learner.env
    chances = learner.log_probabilities()[game.first_finished :].exp()
    found = []
    for place in chances.argsort(descending=True, stable=True)[:count].tolist():
        state = game.first_finished + place
        key = game.keys[state]
        found.append(
            {
                "recipe": key,
                "probability": round(float(chances[place]), DIGITS),
                "reward": round(float(game.rewards[state]), DIGITS),
                "is_measured": key in game.measured_rewards,
            }
        )
    return found


def _plain(value: Any) -> Any:
    """Numbers with six decimals, NaN and infinities as None."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(inner) for inner in value]
    if isinstance(value, float):
        return round(value, DIGITS) if math.isfinite(value) else None
    return value

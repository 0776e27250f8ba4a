"""What a fake run learned: the ways to search that are offered, and the events of one search as the loop sends them."""

from __future__ import annotations

import math
import random
from typing import Any

SEARCH_METHODS_OFFERED: list[dict[str, Any]] = [
    {"name": "adaptive", "sentence": "Earlier winners first, then several proposers share it.", "unavailable": None},
    {"name": "selection", "sentence": "Recombines what the selection method chose.", "unavailable": None},
    {"name": "random", "sentence": "Draws recipes at random, each at most once.", "unavailable": None},
    {"name": "surrogate", "sentence": "Asks a model of what was measured.", "unavailable": "scikit-learn is missing"},
    {"name": "rl", "sentence": "A policy builds recipes.", "unavailable": None},
]

S, Q, K, M = "attention_fusion", "quantization", "kernel_fusion", "memory_pooling"
# recipe, proposer, predicted log gain, its standard deviation
PROPOSED: list[tuple[str, str, float | None, float | None]] = [
    (f"{S}=sdpa", "portfolio", 0.09, 0.08),
    (f"{S}=sdpa_causal", "portfolio", 0.12, 0.08),
    (f"{K}=fold", "portfolio", 0.02, 0.07),
    (f"{Q}=int8_dynamic", "likeliest", 0.16, 0.09),
    (f"{Q}=bfloat16", "surrogate", 0.05, 0.11),
    (f"{K}=compile", "selection", 0.06, 0.09),
    (f"{M}=micro_batch", "surrogate", 0.03, 0.06),
    (f"{S}=sdpa_causal+{K}=compile", "rl", 0.17, 0.04),
    (f"{K}=compile_freezing+{Q}=float16_weights", "local", None, None),
    (f"{S}=sdpa+{M}=in_place", "surrogate", 0.14, 0.03),
    (f"{S}=sdpa_causal+{K}=compile+{M}=in_place", "surrogate", 0.19, 0.03),
    (f"{S}=sdpa+{K}=compile", "surrogate", 0.12, 0.03),
]


def policy_report(groups: int = 100, **changes: Any) -> dict[str, Any]:
    """What a trained policy reports, with curves that look like learning."""
    rng = random.Random(3)
    grown = [1 - math.exp(-n / 30) for n in range(groups)]
    accuracy = [min(8, max(0, round(8 * (0.1 + 0.5 * g) + rng.gauss(0, 1.6)))) / 8 for g in grown]
    kept = [0 < share < 1 for share in accuracy]
    updates = sum(kept) // 2
    fell = [math.exp(-n / 15) for n in range(updates)]
    return {
        "trained": True,
        "reason": "policy trained on 9 measured candidates",
        "variant": "VAPO + DAPO + ORZ",
        "groups": groups,
        "episodes": 8 * groups,
        "kept_groups": sum(kept),
        "group_kept": kept,
        "threshold_moves": 1,
        "returns": [round(-0.06 + 0.2 * g + rng.gauss(0, 0.02), 6) for g in grown],
        "best_returns": [round(0.05 + 0.14 * g + abs(rng.gauss(0, 0.02)), 6) for g in grown],
        "group_accuracy": accuracy,
        "thresholds": [0.06 if n < 40 else 0.1 for n in range(groups)],
        "update_groups": [2 * n + 2 for n in range(updates)],
        "updates": updates,
        "clip_fraction": 0.051,
        "clip_fraction_per_update": [round(0.02 + 0.1 * f + abs(rng.gauss(0, 0.01)), 6) for f in fell],
        "policy_loss": [round(-0.02 * f + rng.gauss(0, 0.004), 6) for f in fell],
        "value_loss": [round(0.004 + 0.03 * f + abs(rng.gauss(0, 0.001)), 6) for f in fell],
        "entropy": [round(0.5 + 0.7 * f, 6) for f in fell],
        "approx_kl": [round(abs(rng.gauss(0.004, 0.002)), 6) for _ in fell],
        "chosen_settings": {
            S: {"off": 0.04, "sdpa": 0.15, "sdpa_causal": 0.81},
            K: {"off": 0.22, "fold": 0.05, "compile": 0.66, "compile_freezing": 0.07},
            Q: {"off": 0.88, "int8_dynamic": 0.08, "bfloat16": 0.04},
            M: {"off": 0.47, "in_place": 0.53},
        },
        "value_pretraining": {
            "first_loss": 0.21,
            "last_loss": 0.018,
            "explained_variance": 0.74,
            "losses": [0.018 + 0.192 * math.exp(-n / 8) for n in range(50)],
        },
        "behaviour_cloning": {"examples": 4, "first_loss": 5.1, "last_loss": 1.4},
        "likeliest": [
            {"recipe": f"{S}=sdpa_causal+{K}=compile", "probability": 0.31, "reward": 0.24, "is_measured": True},
            {"recipe": f"{S}=sdpa_causal", "probability": 0.2, "reward": 0.19, "is_measured": False},
        ],
        "zones": {"good": 31, "neutral": 30, "bad": 31, "unknown": 8},
        "gate": {"passed": True, "sentence": "On models left out, the surrogate ranks recipes well enough to learn on"},
        "enable_dapo": True,
        "enable_vapo": True,
        "enable_orz": True,
        **changes,
    }


def drawn(method: str = "rank", iteration: int = 1) -> dict[str, Any]:
    """The data of a "selection" event."""
    keys = [key for key, *_ in PROPOSED[:5]]
    chances = dict(zip(keys, (0.36, 0.28, 0.2, 0.12, 0.04), strict=True))
    return {
        "iteration": iteration,
        "method": method,
        "parents": [keys[0], keys[2], keys[0]],
        "proposals": [PROPOSED[5][0]],
        "details": {"probabilities": chances},
    }


def told(count: int = len(PROPOSED)) -> list[tuple[str, dict[str, Any]]]:
    """Kind and data of what an adaptive search tells, up to its `count`th proposal; one of them trains a policy."""
    events: list[tuple[str, dict[str, Any]]] = []
    for key, by, predicted, sd in PROPOSED[:count]:
        if by == "selection":
            events.append(("selection", drawn()))
        entry = {"key": key, "by": by, "predicted": predicted, "sd": sd, "expected_improvement": 0.01}
        notes = {"learning": policy_report()} if by == "rl" else {}
        data = {"iteration": 1, "searcher": "adaptive", "sentence": f"adaptive proposes {key}", "proposals": [entry]}
        events.append(("proposals", {**data, "notes": notes}))
    return events

"""The real run process with a short search of our own: baseline, three recipes, a final race of two."""

import sys
from pathlib import Path
from types import SimpleNamespace

sys.path.insert(0, str(Path(__file__).parents[3]))

from hybrid_core.records import MeasureLimits, Purpose, Recipe
from workers.run_process import Plan, main

RECIPES = [Recipe.from_dict({"quantization": name}) for name in ("one", "two", "three")]
ORDERED = [
    (Recipe(), Purpose.BASELINE),
    *((recipe, Purpose.SEARCH) for recipe in RECIPES),
    (Recipe(), Purpose.FINAL),
    (RECIPES[1], Purpose.FINAL),
]


def search(config, space, measure, emit, *, history, run_id, **hints):
    for done, (recipe, purpose) in enumerate(ORDERED):
        trial_id = f"{run_id}:{purpose}:{recipe.key}"
        emit("trial_started", {"trial_id": trial_id, "recipe": recipe, "key": recipe.key, "purpose": str(purpose)})
        trial = measure(recipe, purpose, MeasureLimits(transform_timeout_s=30, total_timeout_s=60))
        emit("trial_finished", {"trial": trial, "fitness": {"value": 1.0, "low": 0.9, "high": 1.1}, "iteration": done})
        emit("progress", {"stage": "search", "done": done + 1, "planned": len(ORDERED), "remaining_s": 1.0})
        if purpose is Purpose.SEARCH:
            emit("selection", {"iteration": done, "method": "tournament", "parents": [recipe.key], "proposals": []})
    winner = RECIPES[1]
    emit("result", {"winner_key": winner.key, "winner_trial_id": f"{run_id}:final:{winner.key}"})
    return SimpleNamespace(failed=False, winner=winner, sentence="two is the best", stop_reason="nothing left")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], plan=lambda order: Plan(None, {"settings": {}}, search)))

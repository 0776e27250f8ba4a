"""What a fake run learned: the ways to search that are offered, and the events of one search as the loop sends them."""

from __future__ import annotations

from typing import Any

SEARCH_METHODS_OFFERED: list[dict[str, Any]] = [
    {"name": "adaptive", "sentence": "Earlier winners first, then several proposers share it.", "unavailable": None},
    {"name": "selection", "sentence": "Recombines what the selection method chose.", "unavailable": None},
    {"name": "random", "sentence": "Draws recipes at random, each at most once.", "unavailable": None},
    {"name": "surrogate", "sentence": "Asks a model of what was measured.", "unavailable": "scikit-learn is missing"},
    {"name": "rl", "sentence": "A policy builds recipes.", "unavailable": None},
]

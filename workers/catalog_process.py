"""Prints what can be chosen, as one JSON object: models, strategies, methods, devices, environment.

The hub lives beside every measurement and must not import torch, yet only torch can say which settings this machine
offers. So the hub runs this short process once at its start and keeps what it printed.
"""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Iterable
from typing import Any

from hybrid_core.records import SEARCH_METHODS, to_json
from workers.devices import cpu_title, default_threads, usable_cores


def build_catalog() -> dict[str, Any]:
    """The whole catalog as plain JSON values."""
    from hybrid_core.measurement.machine import describe_gpus, describe_versions
    from hybrid_core.models.registry import ENTRIES
    from hybrid_core.search.searchers.registry import SEARCHERS
    from hybrid_core.search.space import OVERHEAD_PRIOR_S
    from hybrid_core.selection.registry import METHODS
    from hybrid_core.strategies.registry import STRATEGIES

    devices = describe_devices(describe_gpus())
    return {
        "models": [describe_model(entry) for entry in ENTRIES],
        "strategies": [describe_strategy(strategy, [d["id"] for d in devices]) for strategy in STRATEGIES],
        # What each measurement takes before any setting's own cost: a process, two models, timing, memory, quality.
        "trial_overhead_s": OVERHEAD_PRIOR_S,
        "selection_methods": [{"name": method.name, "sentence": method.sentence} for method in METHODS],
        "search_methods": describe_searchers(SEARCHERS),
        "devices": devices,
        "environment": {**describe_versions(), "cpu": cpu_title(), "cores": usable_cores()},
    }


def describe_model(entry: Any) -> dict[str, Any]:
    """One model of the registry with its workloads and facts per size."""
    return {
        "name": entry.name,
        "family": entry.family,
        "title": entry.title,
        "description": entry.description,
        "sizes": list(entry.sizes),
        "workloads": {size: [{**to_json(w), "label": w.label} for w in entry.workloads(size)] for size in entry.sizes},
        "facts": {size: to_json(entry.facts(size)) for size in entry.sizes},
    }


def describe_strategy(strategy: Any, devices: list[str]) -> dict[str, Any]:
    """One strategy with its settings; `unavailable` speaks of the first device, `unavailable_on` of each."""
    settings = []
    for setting in strategy.settings:
        reasons = {device: strategy.unavailable(setting.name, device) for device in devices}
        settings.append({**to_json(setting), "unavailable": reasons[devices[0]], "unavailable_on": reasons})
    return {
        "name": strategy.name,
        "title": strategy.title,
        "purpose": strategy.purpose,
        "claimed": dict(strategy.claimed),
        "settings": settings,
        "conflicts": to_json(strategy.conflicts),
    }


def describe_searchers(entries: Iterable[Any]) -> list[dict[str, Any]]:
    """The ways to search that may be chosen, the default first; `unavailable` says what one lacks here."""
    offered = [entry for entry in entries if entry.name in SEARCH_METHODS and not entry.is_control]
    offered.sort(key=lambda entry: SEARCH_METHODS.index(entry.name))
    return [{"name": e.name, "sentence": e.sentence, "unavailable": e.unavailable()} for e in offered]


def describe_devices(gpus: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Where a run can be measured; `threads` is the default, `max_threads` what may be asked for."""
    common = {"threads": default_threads(), "max_threads": usable_cores()}
    return [{"id": "cpu", "title": cpu_title(), **common}, *({**gpu, **common} for gpu in gpus)]


def main() -> int:
    """Print the catalog and nothing else: what imports print goes to standard error."""
    with contextlib.redirect_stdout(sys.stderr):
        catalog = build_catalog()
    json.dump(catalog, sys.stdout, allow_nan=False)
    return 0


if __name__ == "__main__":
    sys.exit(main())

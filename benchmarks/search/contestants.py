"""Who takes part: every searcher of the registry as it comes, and the variants that an option makes of some.

A variant is the same entry with other options, named `entry/variant`: recombination by each selection method, the
learned policy with each of its parts alone, and the default without the learned policy among its proposers.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.errors import InvalidInput
from hybrid_core.records import SELECTION_METHODS
from hybrid_core.search.searchers.base import Searcher, Task
from hybrid_core.search.searchers.registry import SEARCHERS, SearcherEntry

LEARNING_PARTS = ("enable_dapo", "enable_vapo", "enable_orz")
# Entry -> name of the variant -> the options that make it.
VARIANTS: Mapping[str, Mapping[str, Mapping[str, Any]]] = {
    "adaptive": {"not learning": {"enable_rl_optimization": False}},
    "selection": {
        name: {"enable_rl_optimization": False, "selection_strategy": name}
        for name in SELECTION_METHODS
        if name != "rl"
    },
    "rl": {
        "grpo": dict.fromkeys(LEARNING_PARTS, False),
        **{part.removeprefix("enable_"): {p: p == part for p in LEARNING_PARTS} for part in LEARNING_PARTS},
    },
}


def contestants(names: Sequence[str] | None = None) -> list[SearcherEntry]:
    """All of them, or those of these names; an entry's name alone means its variants, too.

    Raises:
        InvalidInput: a name is unknown.
    """
    everybody = list(_everybody())
    known = [entry.name for entry in everybody]
    for name in names or ():
        if name not in known:
            raise InvalidInput(f"searcher {name!r:.60} is unknown; choose among {', '.join(known)}")
    return [entry for entry in everybody if not names or {entry.name, entry.name.split("/")[0]} & set(names)]


def _everybody() -> Iterator[SearcherEntry]:
    for entry in SEARCHERS:
        yield entry
        for name, changes in VARIANTS.get(entry.name, {}).items():
            yield with_options(entry, name, changes)


def with_options(entry: SearcherEntry, name: str, changes: Mapping[str, Any]) -> SearcherEntry:
    """The entry as it is under other options."""

    def build(task: Task, options: HybridOptimizationConfig) -> Searcher:
        return entry.build(task, replace(options, **changes))

    return replace(entry, name=f"{entry.name}/{name}", build=build)

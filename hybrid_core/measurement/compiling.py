"""Did the compiler really compile? Read from dynamo's own counters, before and after.

`torch.compile` falls back to eager without an error: a graph break splits the model, a recompile stalls a later call,
and with zero compiled graphs the "compiled" model is the old one. The counters are global to the process, so only
differences mean anything; where dynamo was never imported all of them are zero.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

_LIMIT_REACHED = "Dynamo recompile limit exceeded"


@dataclass(frozen=True)
class CompileCounts:
    """Graphs compiled and graph breaks met so far in this process, with the reasons of the breaks.

    `hits`, `misses` and `bypasses` are Inductor's own count of its cache on disk, which the trials of one run share.
    `given_up` counts functions that the compiler left as they are written; `limits` those of them that had been
    compiled in as many forms as are kept.
    """

    graphs: int = 0
    breaks: int = 0
    reasons: tuple[str, ...] = ()
    hits: int = 0
    misses: int = 0
    bypasses: int = 0
    given_up: int = 0
    limits: int = 0

    @property
    def cache(self) -> str:
        """Where the code came from; frozen weights are part of the code and never kept.

        >>> CompileCounts(graphs=2, hits=2).cache, CompileCounts(graphs=2, hits=1, misses=1).cache
        ('warm', 'cold')
        """
        if self.bypasses:
            return "bypassed"
        if self.misses:
            return "cold"
        return "warm" if self.hits else "none"

    def since(self, earlier: CompileCounts) -> CompileCounts:
        """What was added after `earlier`."""
        reasons = tuple(reason for reason in self.reasons if reason not in earlier.reasons)
        return CompileCounts(
            graphs=self.graphs - earlier.graphs,
            breaks=self.breaks - earlier.breaks,
            reasons=reasons,
            hits=self.hits - earlier.hits,
            misses=self.misses - earlier.misses,
            bypasses=self.bypasses - earlier.bypasses,
            given_up=self.given_up - earlier.given_up,
            limits=self.limits - earlier.limits,
        )


def read_counts() -> CompileCounts:
    """Dynamo's counters now; importing dynamo only to learn that it did nothing would cost a second."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return CompileCounts()
    counters = dynamo.counters
    breaks = dict(counters.get("graph_break", {}))
    inductor, frames = counters.get("inductor", {}), counters.get("frames", {})
    unimplemented = counters.get("unimplemented", {})
    return CompileCounts(
        graphs=counters.get("stats", {}).get("unique_graphs", 0),
        breaks=sum(breaks.values()),
        reasons=tuple(breaks),
        hits=inductor.get("fxgraph_cache_hit", 0),
        misses=inductor.get("fxgraph_cache_miss", 0),
        bypasses=inductor.get("fxgraph_cache_bypass", 0),
        given_up=frames.get("total", 0) - frames.get("ok", 0),
        limits=sum(count for reason, count in unimplemented.items() if reason.startswith(_LIMIT_REACHED)),
    )


def compile_warnings(first: CompileCounts, before: CompileCounts, timed: CompileCounts) -> tuple[str, ...]:
    """Sentences about what was not compiled, and about recompiles `before` the clock ran and while it was `timed`."""
    warnings = []
    if first.breaks:
        reason = f", for example: {first.reasons[0].splitlines()[0]:.120}" if first.reasons else ""
        warnings.append(f"compiled in pieces: {first.breaks} graph breaks, {first.graphs} graphs{reason}")
    if first.given_up and first.graphs:
        warnings.append(f"compiled in part: {_functions(first)} left as written{_cause(first)}")
    if before.graphs:
        warnings.append(f"recompiled {before.graphs} graphs after the first call, before the clock ran")
    if timed.graphs:
        warnings.append(f"recompiled {timed.graphs} graphs while timed, so some timed calls include compiling")
    fault = fall_back_fault(before, timed)
    return (*warnings, fault) if fault else tuple(warnings)


def fall_back_fault(before: CompileCounts, timed: CompileCounts) -> str:
    """The sentence for a compiler that gave up after the first call: what is timed then is partly the old model."""
    for when, counts in (("while timed", timed), ("after the first call", before)):
        if counts.given_up > 0:
            return (
                f"fell back to uncompiled code {when}: {_functions(counts)} given up by the compiler{_cause(counts)}, "
                "and a fall-back is no win"
            )
    return ""


def compile_facts(first: CompileCounts, before: CompileCounts, timed: CompileCounts) -> dict[str, Any]:
    """Graphs, graph breaks and functions given up: in the first call, from there to the clock, and while timed."""
    stretches = {"first_call": first, "before_timing": before, "timed": timed}
    return {
        name: {"graphs": counts.graphs, "breaks": counts.breaks, "given_up": counts.given_up}
        for name, counts in stretches.items()
    }


def _functions(counts: CompileCounts) -> str:
    return "1 function was" if counts.given_up == 1 else f"{counts.given_up} functions were"


def _cause(counts: CompileCounts) -> str:
    return " (its limit of forms of one function was reached)" if counts.limits > 0 else ""

"""Did the compiler really compile? Read from dynamo's own counters, before and after.

`torch.compile` falls back to eager without an error: a graph break splits the model, a recompile stalls a later call,
and with zero compiled graphs the "compiled" model is the old one. The counters are global to the process, so only
differences mean anything; where dynamo was never imported all of them are zero.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class CompileCounts:
    """Graphs compiled and graph breaks met so far in this process, with the reasons of the breaks.

    `hits`, `misses` and `bypasses` are Inductor's own count of its cache on disk, which the trials of one run share.
    """

    graphs: int = 0
    breaks: int = 0
    reasons: tuple[str, ...] = ()
    hits: int = 0
    misses: int = 0
    bypasses: int = 0

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
        )


def read_counts() -> CompileCounts:
    """Dynamo's counters now; importing dynamo only to learn that it did nothing would cost a second."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return CompileCounts()
    counters = dynamo.counters
    breaks = dict(counters.get("graph_break", {}))
    inductor = counters.get("inductor", {})
    return CompileCounts(
        graphs=counters.get("stats", {}).get("unique_graphs", 0),
        breaks=sum(breaks.values()),
        reasons=tuple(breaks),
        hits=inductor.get("fxgraph_cache_hit", 0),
        misses=inductor.get("fxgraph_cache_miss", 0),
        bypasses=inductor.get("fxgraph_cache_bypass", 0),
    )


def compile_warnings(first_call: CompileCounts, timed: CompileCounts) -> tuple[str, ...]:
    """Sentences about graph breaks at the first call and recompiles while the clock ran."""
    warnings = []
    if first_call.breaks:
        reason = f", for example: {first_call.reasons[0].splitlines()[0]:.120}" if first_call.reasons else ""
        warnings.append(f"compiled in pieces: {first_call.breaks} graph breaks, {first_call.graphs} graphs{reason}")
    if timed.graphs:
        warnings.append(f"recompiled {timed.graphs} graphs after the first call, some of it while timed")
    return tuple(warnings)

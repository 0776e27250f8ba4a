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
    """Graphs compiled and graph breaks met so far in this process, with the reasons of the breaks."""

    graphs: int = 0
    breaks: int = 0
    reasons: tuple[str, ...] = ()

    def since(self, earlier: CompileCounts) -> CompileCounts:
        """What was added after `earlier`."""
        reasons = tuple(reason for reason in self.reasons if reason not in earlier.reasons)
        return CompileCounts(self.graphs - earlier.graphs, self.breaks - earlier.breaks, reasons)


def read_counts() -> CompileCounts:
    """Dynamo's counters now; importing dynamo only to learn that it did nothing would cost a second."""
    dynamo = sys.modules.get("torch._dynamo.utils")
    if dynamo is None:
        return CompileCounts()
    counters = dynamo.counters
    breaks = dict(counters.get("graph_break", {}))
    return CompileCounts(counters.get("stats", {}).get("unique_graphs", 0), sum(breaks.values()), tuple(breaks))


def compile_warnings(first_call: CompileCounts, timed: CompileCounts) -> tuple[str, ...]:
    """Sentences about graph breaks at the first call and recompiles while the clock ran."""
    warnings = []
    if first_call.breaks:
        reason = f", for example: {first_call.reasons[0].splitlines()[0]:.120}" if first_call.reasons else ""
        warnings.append(f"compiled in pieces: {first_call.breaks} graph breaks, {first_call.graphs} graphs{reason}")
    if timed.graphs:
        warnings.append(f"recompiled {timed.graphs} graphs after the first call, some of it while timed")
    return tuple(warnings)

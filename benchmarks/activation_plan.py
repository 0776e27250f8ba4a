"""What a planned arena for all intermediate results would save against eager PyTorch.

Question: if every result of a whole model had its place in one buffer planned beforehand, by how much would the peak of
a call fall below what eager execution reaches by itself?

Method: the model is exported (ATen operators, as eager runs them), each result that is a storage of its own gets a life
from the step that makes it to the last step that reads it or a view of it, and a greedy planner (largest first, lowest
free offset, as in Pisarchyk and Lee 2020, arXiv:2001.03288) places all of them. Beside the arena stand the sum of all
results, which nobody ever holds at once, the lower bound (most bytes alive at one step), and the peak that eager's
allocator really reached in a call, counted by the project's own measurement. The plan is compared with the *peak*,
never with the sum. It leaves out the scratch inside kernels, which eager's peak includes; so the same graph is also run
node by node, each result freed after its last reader: what that peak is above the arena is scratch, what eager's is
above that is held by Python's frames. Nothing is timed and the plan is not executed.

    make bench-activation-plan            every model of the registry, tiny
    make bench-activation-plan QUICK=1    three of them
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from torch.utils._pytree import tree_leaves  # noqa: E402

from hybrid_core.allocated import allocated_peak  # noqa: E402
from hybrid_core.evaluation import Case, case_from_registry  # noqa: E402
from hybrid_core.measurement.machine import describe_versions  # noqa: E402
from hybrid_core.measurement.memory import live_peak_bytes  # noqa: E402
from hybrid_core.models.base import ModelEntry  # noqa: E402
from hybrid_core.models.registry import ENTRIES  # noqa: E402
from hybrid_core.records import Subject, Workload  # noqa: E402
from workers.devices import cpu_title  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "activation-plan.json"
QUICK_MODELS = ("sequential", "vit", "convnet")
ALIGNMENT = 64
WORTH_SAVING = 0.25
COLUMNS = ("sum_bytes", "lower_bound_bytes", "arena_bytes", "graph_peak_bytes", "eager_peak_bytes")


@dataclass(frozen=True)
class Life:
    """One storage: its bytes, and the first and last step (both included) at which it must be there."""

    nbytes: int
    first: int
    last: int

    def meets(self, other: Life) -> bool:
        """True when both must be there at some step."""
        return self.first <= other.last and other.first <= self.last


def lower_bound(lives: list[Life]) -> int:
    """The most bytes alive at one step; no plan can need less.

    >>> lower_bound([Life(4, 0, 1), Life(2, 1, 2), Life(4, 2, 3)])
    6
    """
    return max((sum(o.nbytes for o in lives if o.first <= life.first <= o.last) for life in lives), default=0)


def plan_arena(lives: list[Life]) -> list[int]:
    """An offset for each life, so that lives that meet do not overlap: largest first, lowest gap that fits."""
    offsets = [0] * len(lives)
    placed: list[int] = []
    for index in sorted(range(len(lives)), key=lambda i: (-lives[i].nbytes, lives[i].first)):
        mine, at = lives[index], 0
        for other in sorted((i for i in placed if lives[i].meets(mine)), key=lambda i: offsets[i]):
            if at + mine.nbytes <= offsets[other]:
                break
            at = max(at, offsets[other] + lives[other].nbytes)
        offsets[index] = at
        placed.append(index)
    return offsets


def arena_bytes(lives: list[Life], offsets: list[int]) -> int:
    """The size of the buffer that the offsets need."""
    return max((at + life.nbytes for at, life in zip(offsets, lives, strict=True)), default=0)


class LifeRecorder(torch.fx.Interpreter):
    """Runs an exported graph and notes which step makes and which steps read each storage that is no input."""

    def __init__(self, module: torch.fx.GraphModule) -> None:
        super().__init__(module, garbage_collect_values=False)  # an address must not serve twice
        self._held: list[Any] = []
        self._given: set[int] = set()
        self._lives: dict[int, list[int]] = {}
        self._step = 0

    def run_node(self, n: torch.fx.Node) -> Any:
        """See `Interpreter.run_node`; reading a view is reading its storage."""
        self._step += 1
        read = [self.env[node] for node in n.all_input_nodes]
        result = super().run_node(n)
        self._held.append(result)
        for tensor in _tensors(read):
            if tensor.untyped_storage().data_ptr() in self._lives:
                self._lives[tensor.untyped_storage().data_ptr()][2] = self._step
        for tensor in _tensors(result):
            address = tensor.untyped_storage().data_ptr()
            if n.op in ("placeholder", "get_attr"):
                self._given.add(address)
            elif n.op != "output" and address and address not in self._given:
                nbytes = -(-tensor.untyped_storage().nbytes() // ALIGNMENT) * ALIGNMENT
                self._lives.setdefault(address, [nbytes, self._step, self._step])
        return result

    def lives(self) -> list[Life]:
        """Every storage that the run made."""
        return [Life(*life) for life in self._lives.values()]


def record_lives(module: torch.nn.Module, inputs: tuple[Any, ...]) -> tuple[list[Life], int]:
    """Export the module for these inputs; its lives, and the peak when the graph runs node by node."""
    with torch.no_grad():
        exported = torch.export.export(module, inputs, strict=False)
        graph = exported.module()
        assert isinstance(graph, torch.fx.GraphModule), "an exported program gives a graph"
        recorder = LifeRecorder(graph)
        recorder.run(*inputs)
        return recorder.lives(), allocated_peak(lambda: torch.fx.Interpreter(graph).run(*inputs))


class WholeCall(torch.nn.Module):
    """The call of a workload as a module, so that the whole of it is exported."""

    def __init__(self, case: Case, model: torch.nn.Module) -> None:
        super().__init__()
        self.model, self.case = model, case

    def forward(self, *inputs: Any) -> Any:
        """One call."""
        return self.case.call(self.model, inputs)


def main() -> None:
    """Plan, print, and write the results file."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three models")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    entries = [entry for entry in ENTRIES if not chosen.quick or entry.name in QUICK_MODELS]
    print("MB: sum of results, lower bound, arena, peak of the graph, eager's peak, what the arena saves of the peak")
    rows = [print_row(row_of(entry)) for entry in entries]
    saved = [row["saved_share"] for row in rows if "saved_share" in row]
    target = {
        "name": "largest share of eager's peak that the arena would save",
        "value": round(max(saved, default=0.0), 4),
        "target": WORTH_SAVING,
        "met": max(saved, default=0.0) > WORTH_SAVING,
    }
    print(f"{target['name']}: {target['value']:.1%} (worth doing above {WORTH_SAVING:.0%})")
    environment = {**describe_versions(), "cpu": cpu_title(), "threads": 1}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    RESULTS.write_text(json.dumps({"environment": environment, "targets": [target], "rows": rows}, indent=1))
    print(f"written to {RESULTS.relative_to(ROOT)}")


def row_of(entry: ModelEntry) -> dict[str, Any]:
    """The first workload that export can take; where it takes none, the reason."""
    reasons = []
    for workload in entry.workloads("tiny"):
        try:
            return planned_row(entry, workload)
        except Exception as error:  # export may raise anything; what it says is the row
            first = (str(error).splitlines() or [""])[0]
            reasons.append(f"{workload.name}: {type(error).__name__}: {first[:200]}")
    return {"model": entry.name, "refused": "; ".join(reasons)}


def planned_row(entry: ModelEntry, workload: Workload) -> dict[str, Any]:
    """The four byte counts of one workload."""
    case = case_from_registry(Subject(entry.name, "tiny", workload))
    model, inputs = case.build_model(), case.fresh_inputs(case.generator("plan"))
    live_peak_bytes(case, model, inputs)  # the first call may allocate what stays
    peak, _ = live_peak_bytes(case, model, inputs)
    lives, graph_peak = record_lives(WholeCall(case, model).eval(), inputs)
    arena = arena_bytes(lives, plan_arena(lives))
    return {
        "model": entry.name,
        "workload": workload.label,
        "results": len(lives),
        "sum_bytes": sum(life.nbytes for life in lives),
        "lower_bound_bytes": lower_bound(lives),
        "arena_bytes": arena,
        "graph_peak_bytes": graph_peak,
        "eager_peak_bytes": peak,
        "saved_share": 1 - arena / peak,
    }


def print_row(row: dict[str, Any]) -> dict[str, Any]:
    """One line of the table."""
    if "refused" in row:
        print(f"{row['model']:14} refused: {row['refused'][:160]}", flush=True)
        return row
    columns = [row[name] / 1e6 for name in COLUMNS]
    shown = " ".join(f"{value:9.3f}" for value in columns)
    print(f"{row['model']:14} {row['workload'][:40]:40} {shown} {row['saved_share']:7.1%}", flush=True)
    return row


def _tensors(value: Any) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(value) if isinstance(leaf, torch.Tensor)]


if __name__ == "__main__":
    main()

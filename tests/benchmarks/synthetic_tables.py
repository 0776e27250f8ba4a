"""Tables whose every answer is known, made of effects that add up; for the tests of the bake-off."""

import random
from typing import Any

from benchmarks.search.rows import SCHEMA, Row
from benchmarks.search.table import Table, table_of
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.recipes import legal_recipes
from hybrid_core.records import Recipe
from hybrid_core.search.searchers.base import IsOpen, Remembering, Task
from hybrid_core.search.searchers.registry import SearcherEntry

SETTINGS = {
    "kernel_fusion": ("fold", "merge", "compile", "openvino"),
    "quantization": ("int8_dynamic", "bfloat16", "int4_group32"),
    "memory_pooling": ("in_place", "release_early", "micro_batch"),
    "attention_fusion": ("sdpa", "library_sdpa"),
}


def recipes() -> tuple[Recipe, ...]:
    return legal_recipes(tuple(SETTINGS), SETTINGS)


def make_table(
    name: str = "table",
    family: str = "one",
    seed: int = 0,
    noise: float = 0.0,
    options: HybridOptimizationConfig | None = None,
    passes: str = "AB",
    **changed: Row,
) -> Table:
    """`changed`: recipe key with _ for = and + -> columns to replace in pass A."""
    rows = make_rows(seed, noise, passes)
    for row in rows:
        if row["pass"] == "A" and (columns := changed.get(row["recipe"].replace("=", "_").replace("+", "_"))):
            row.update(columns)
    return table_of(name, rows, about_of(family), options)


def about_of(family: str) -> dict[str, Any]:
    environment = {"cpu": "a processor", "torch": "2", "python": "3", "cpu_capability": "x", "system": "x"}
    subject = {"model": "synthetic", "size": "tiny", "workload": {"name": "forward", "kind": "forward"}}
    return {"family": family, "subject": subject, "environment": environment}


def make_rows(seed: int = 0, noise: float = 0.0, passes: str = "AB") -> list[Row]:
    generator = random.Random(seed)
    effect = {
        f"{strategy}={name}": (generator.gauss(0.05, 0.15), generator.uniform(0.0, 0.2))
        for strategy, names in SETTINGS.items()
        for name in names
    }
    rows = []
    for recipe in recipes():
        keys = recipe.key.split("+") if recipe.steps else []
        speed, memory = (2.718281828 ** sum(effect[key][i] for key in keys) for i in range(2))
        rows += [make_row(recipe.key, which, speed, memory, generator, noise) for which in passes]
    return rows


def make_row(key: str, which: str, speed: float, memory: float, generator: random.Random, noise: float) -> Row:
    pairs = [2.718281828 ** generator.gauss(0, noise) for _ in range(24)]
    row: Row = dict.fromkeys(SCHEMA.names)
    row |= {"recipe": key, "pass": which, "attempt": 0, "outcome": "ok", "reason": "", "stage": "", "forked": True}
    row |= {"seconds": 2.0 + len(key) / 10, "start_s": 0.02, "import_s": 0.0, "block": 0, "flagged": False}
    row |= {"baseline_ms": [10.0 * pair for pair in pairs], "candidate_ms": [10.0 / speed] * len(pairs)}
    row |= ends("speed", speed * 2.718281828 ** generator.gauss(0, noise), 0.001 + noise)
    return row | (ends("memory", memory, 0.0) | ends("accuracy", 1.0, 0.005) if which == "A" else {})


def ends(name: str, value: float, half: float) -> Row:
    return {name: value, f"{name}_low": value * (1 - half), f"{name}_high": value * (1 + half)}


class InOrder(Remembering):
    """Asks for the recipes in the order of the table and writes down what it was given."""

    tasks: list[Task] = []

    def __init__(self, task: Task) -> None:
        super().__init__(task)
        self.tasks.append(task)

    def ask(self, count: int, is_open: IsOpen) -> list[Recipe]:
        return [r for r in self.space.recipes[1:] if is_open(r)][:count]


IN_ORDER = SearcherEntry("in order", "", lambda task, options: InOrder(task))


def three_tables() -> list[Table]:
    return [make_table(f"t{i}", family, seed=i) for i, family in enumerate(("one", "two", "two"))]

"""Writes what a first search may know, `hybrid_core/adaptive/shipped/`, from the checked-in measurements alone.

Taken are the single settings and ensembles of `benchmarks/strategies.py` and what searchers see of the tables of
`benchmarks/search`. What a model cannot have is left out: every run asks its own model. So are crashes and timeouts,
which say more about a machine than about a recipe.

    python benchmarks/shipped_history.py
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[0] = str(ROOT)

from benchmarks.search.rows import RESULTS as TABLES  # noqa: E402
from benchmarks.search.rows import SEEN, read_table  # noqa: E402
from hybrid_core.adaptive.shipped import FOLDER  # noqa: E402
from hybrid_core.models.registry import get_entry  # noqa: E402
from hybrid_core.records import BASELINE_KEY  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results"
RATIOS = ("speed", "memory", "accuracy")
TAKEN = ("ok", "wrong")
DIGITS = 4

Row = Mapping[str, Any]
# Model, size and workload -> recipe -> its row in the file.
Subjects = dict[tuple[str, str, str], dict[str, list[Any]]]


def main() -> None:
    """One file for each instruction set."""
    FOLDER.mkdir(exist_ok=True)
    for capability, text in texts().items():
        path = FOLDER / f"{capability}.json"
        path.write_text(text)
        print(f"{path.relative_to(ROOT)}: {len(json.loads(text)['subjects'])} models and workloads")


def texts() -> dict[str, str]:
    """Instruction set -> the file's text."""
    found: dict[str, Subjects] = {}
    for path in sorted(RESULTS.glob("strategies-*.json")):
        subjects = found.setdefault(path.stem.removeprefix("strategies-"), {})
        # A recipe that was raced again stands there twice; the race comes later and had more processes.
        for row in json.loads(path.read_text())["rows"]:
            take(subjects, (row["model"], row["size"], row["workload"].split(",")[0]), row["recipe"], row, ends_of)
    for path in sorted(TABLES.glob("*.parquet")):
        rows, about = read_table(path)
        names = about["subject"]["model"], about["subject"]["size"], about["subject"]["workload"]["name"]
        subjects = found.setdefault(about["environment"]["cpu_capability"].lower(), {})
        for row in rows:
            if row["pass"] == SEEN and row["inferred_from"] is None:
                take(subjects, names, row["recipe"], row, flat_ends_of)
    return {capability: text_of(subjects) for capability, subjects in found.items()}


def take(subjects: Subjects, names: tuple[str, str, str], recipe: str, row: Row, ends: Any) -> None:
    """Keep a row that says something of its recipe."""
    if row["outcome"] in TAKEN and recipe not in ("", BASELINE_KEY):
        ratios = [ends(row, name) if row["outcome"] == "ok" else [None] * 3 for name in RATIOS]
        subjects.setdefault(names, {})[recipe] = [recipe, row["outcome"], *ratios]


def ends_of(row: Row, name: str) -> list[float | None]:
    """Value, low and high of a ratio as `strategies.py` writes it."""
    return [rounded(row[name][end]) for end in ("value", "low", "high")]


def flat_ends_of(row: Row, name: str) -> list[float | None]:
    """The same of a table's columns."""
    return [rounded(row[f"{name}{end}"]) for end in ("", "_low", "_high")]


def rounded(value: float | None) -> float | None:
    """To four digits: finer than any of them is known."""
    return float(f"{value:.{DIGITS}g}") if value is not None and math.isfinite(value) else None


def text_of(subjects: Subjects) -> str:
    """One line for each recipe, so that a change of one measurement is a change of one line."""
    blocks = []
    for (model, size, workload), rows in sorted(subjects.items()):
        names = {"model": model, "size": size, "family": get_entry(model).family, "workload": workload}
        head = json.dumps(names).removesuffix("}")
        blocks.append(f'{head}, "rows": [\n{lines(rows.values())}\n]}}')
    return '{"subjects": [\n' + ",\n".join(blocks) + "\n]}\n"


def lines(rows: Iterable[list[Any]]) -> str:
    """The rows as JSON, by recipe."""
    return ",\n".join(json.dumps(row) for row in sorted(rows))


if __name__ == "__main__":
    main()

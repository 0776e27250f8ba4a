"""Writes the pages of measured settings from the rows that `benchmarks/strategies.py` wrote, and from nothing else.

One table of the best recipe of each workload, as it was raced again in a fresh process, then for each group of models
every single setting: time and peak memory, untouched / changed. The words around the marks stay as they are. Each
instruction set that was measured has a page of its own.

    python benchmarks/strategy_tables.py
"""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results"
# instruction set, as the results file is named -> page
PAGES = {"avx512": "settings_measured.md", "avx2": "settings_measured_avx2.md"}
PLACE = re.compile(r"(<!-- settings: (\w+) -->\n).*?(<!-- /settings -->)", re.DOTALL)
LANGUAGE_MODELS = ("llama", "deepseek", "qwen", "qwq", "claude")
MIN_ACCURACY = 0.98

Row = dict[str, Any]
Subject = tuple[str, str, str]  # model, size, workload


def main() -> None:
    """Fill every place of every page; a place without a table is an error."""
    for capability, name in PAGES.items():
        page = ROOT / "docs" / name
        tables = all_tables(json.loads((RESULTS / f"strategies-{capability}.json").read_text()))
        page.write_text(refilled(page.read_text(), tables))


def refilled(text: str, tables: dict[str, str]) -> str:
    """The page with every marked place filled."""
    return PLACE.sub(lambda place: place[1] + tables[place[2]] + "\n" + place[3], text)


def all_tables(found: dict[str, Any]) -> dict[str, str]:
    """Name of the place in the page -> markdown."""
    rows: list[Row] = found["rows"]
    tables = {"machine": machine_text(found), "targets": targets_text(found["targets"]), "best": best_table(rows)}
    for size in ("tiny", "small"):
        of_size = [row for row in rows if row["size"] == size]
        language = [row for row in of_size if row["model"] in LANGUAGE_MODELS]
        others = [row for row in of_size if row["model"] not in LANGUAGE_MODELS]
        for name, group in (("language", language), ("other", others)):
            tables[f"{size}_{name}_time"] = settings_table(group, time_text)
            tables[f"{size}_{name}_memory"] = settings_table(group, memory_text)
    return tables


def machine_text(found: dict[str, Any]) -> str:
    """What it ran on and how much of it there is."""
    about = found["environment"]
    count = Counter(row["outcome"] for row in found["rows"])
    outcomes = ", ".join(f"{number} {name.replace('_', ' ')}" for name, number in count.most_common())
    return (
        f"{about['cpu']} ({about['cpu_capability']}), {about['threads']} thread, torch {about['torch']}, Python "
        f"{about['python']}, {about['system']}. {len(found['rows'])} rows: {outcomes}."
    )


def targets_text(targets: list[dict[str, Any]]) -> str:
    """A line for each target."""
    return "\n".join(f"- {target_text(target)}" for target in targets)


def target_text(target: dict[str, Any]) -> str:
    """What was found, beside what was wanted."""
    if target["value"] is None:
        return f"{target['name']}: not measured (target {target['target']})"
    verdict = "met" if target["met"] else "**missed**"
    return f"{target['name']}: {target['value']:.3g} (target {target['target']}, {verdict})"


def best_table(rows: list[Row]) -> str:
    """The published recipe of each workload, or that none was surely faster at the quality asked for."""
    lines = []
    for subject in subjects_of(rows):
        own = [row for row in rows if subject_of(row) == subject and is_good(row)]
        raced = [row for row in own if row["purpose"] == "final"]
        name = subject_text(subject)
        if not raced:
            lines.append([name, "not raced yet" if own else "none surely faster", "", "", "", ""])
            continue
        best = max(raced, key=lambda row: row["speed"]["value"])
        cost = f"{best['first_call_s']:.1f}"
        lines.append([name, recipe_text(best), time_text(best), memory_text(best), quality_text(best), cost])
    head = ["workload", "recipe", "time", "peak memory", "quality kept", "first call, s"]
    return table(head, lines)


def is_good(row: Row) -> bool:
    """Surely faster, and surely accurate enough."""
    return "speed" in row and row["speed"]["low"] > 1 and row["accuracy"]["low"] >= MIN_ACCURACY


def settings_table(rows: list[Row], cell: Any) -> str:
    """A line for each single setting, a column for each workload."""
    singles = [row for row in rows if row["purpose"] == "search" and "+" not in row["recipe"]]
    subjects = subjects_of(singles)
    found = {(row["recipe"], subject_of(row)): row for row in singles}
    lines, refused = [], []
    for recipe in dict.fromkeys(row["recipe"] for row in sorted(singles, key=lambda row: row["recipe"])):
        cells = [cell_text(found.get((recipe, subject)), cell) for subject in subjects]
        if set(cells) <= {"", "-"}:
            refused.append(f"`{recipe.split('=')[1]}`")
        else:
            lines.append([f"`{recipe.split('=')[1]}`", *cells])
    head = ["setting", *(subject_text(subject, short=True) for subject in subjects)]
    nowhere = f"\n\nRefused wherever it was asked: {', '.join(refused)}." if refused else ""
    return table(head, lines) + nowhere


def cell_text(row: Row | None, cell: Any) -> str:
    """Empty where it was not run, a dash where the setting refuses, the outcome's name where it failed."""
    if row is None:
        return ""
    if row["outcome"] == "unsupported":
        return "-"
    return cell(row) if "speed" in row else row["outcome"].replace("_", " ")


def time_text(row: Row) -> str:
    """Untouched / changed with its interval; bold where the interval excludes 1 on the good side."""
    speed = row["speed"]
    mark = "**" if speed["low"] > 1 else ""
    return f"{mark}{speed['value']:.2f}{mark} ({speed['low']:.2f} to {speed['high']:.2f})"


def memory_text(row: Row) -> str:
    """Peak bytes, untouched / changed."""
    return f"{row['memory']['value']:.2f}"


def quality_text(row: Row) -> str:
    """With the pessimistic end of its interval."""
    accuracy = row["accuracy"]
    return f"{accuracy['value']:.4f} ({accuracy['low']:.4f})"


def recipe_text(row: Row) -> str:
    """The settings alone; their names are unique."""
    return " + ".join(f"`{part.split('=')[1]}`" for part in row["recipe"].split("+"))


def subject_of(row: Row) -> Subject:
    """Model, size and workload."""
    return row["model"], row["size"], row["workload"]


def subjects_of(rows: list[Row]) -> list[Subject]:
    """By size, language models first, else as measured."""

    def place(subject: Subject) -> tuple[bool, int]:
        rank = LANGUAGE_MODELS.index(subject[0]) if subject[0] in LANGUAGE_MODELS else len(LANGUAGE_MODELS)
        return subject[1] != "tiny", rank

    return sorted(dict.fromkeys(map(subject_of, rows)), key=place)


def subject_text(subject: Subject, *, short: bool = False) -> str:
    """`short` where a heading above says the size."""
    model, size, workload = subject
    name = workload.split(",")[0]
    return f"{model}, {name}" if short else f"{model} {size}, {workload}"


def table(head: list[str], lines: list[list[str]]) -> str:
    """Markdown; a sentence where there is nothing yet."""
    if not lines:
        return "Not measured yet."
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [head, ["---"] * len(head), *lines])


if __name__ == "__main__":
    main()

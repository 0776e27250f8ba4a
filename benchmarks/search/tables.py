"""The tables of docs/search_bakeoff.md, made of the rows of the results file and of nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from benchmarks.search.episodes import MODES
from benchmarks.search.figures import average_ranks, mean_interval
from benchmarks.search.report import COUNTS, SHARES, Row
from benchmarks.search.targets import target_text

BUDGETS = (*COUNTS, *SHARES)
REGRET_AT = ("5", "10", "5 %", "10 %", "20 %", "40")


def all_tables(found: Mapping[str, Any]) -> dict[str, str]:
    """Name of the place in the page -> markdown."""
    rows: list[Row] = found["rows"]
    return {
        "machine": machine_text(found["environment"], rows),
        "targets": "\n".join(f"- {target_text(target)}" for target in found["targets"]),
        "tables": spaces_table(of(rows, "table")),
        "random": random_table(of(rows, "table")),
        "references": references_table(of(rows, "table")),
        **{f"{mode}_{name}": make(searches(rows, mode)) for mode in MODES for name, make in VIEWS.items()},
        **{f"{mode}_curve": picture(searches(rows, mode), mode) for mode in MODES},
        "comparison": comparison_table(of(rows, "comparison")),
        "single": single_tables(rows),
    }


def machine_text(about: Mapping[str, Any], rows: Sequence[Row]) -> str:
    """Where it was measured, and how much was played."""
    tables = of(rows, "table")
    places = sorted({str((row["environment"] or about)["cpu"]) for row in tables})
    seeds: dict[int, list[str]] = {}
    for row in of(rows, "search"):
        if row["searcher"] not in seeds.setdefault(row["seeds"], []):
            seeds[row["seeds"]].append(row["searcher"])
    played = "; ".join(f"{count} seeds: {', '.join(names)}" for count, names in sorted(seeds.items(), reverse=True))
    noisy = [row["table"] for row in tables if not row["is_usable"]]
    told = f" Too noisy to decide anything: {', '.join(noisy)}." if noisy else ""
    families, seconds = len({row["family"] for row in tables}), about["seconds"]
    return (
        f"{len(tables)} tables of {families} families, measured on {', '.join(places)}, torch {about['torch']}, Python "
        f"{about['python']}, 1 thread.{told} Replayed in {seconds:.0f} s; {played}."
    )


def spaces_table(rows: Sequence[Row]) -> str:
    """What there is to find, and how well it is known."""
    lines = []
    for row in rows:
        good = " / ".join(str(count) for count in row["good"].values())
        lines.append(
            [row["table"], row["family"], str(row["recipes"]), str(row["failed"]), good, str(row["within_noise"])]
            + [
                f"{percent(row['noise'])} ({percent(row['process_sd'])} / √{row['judges']})",
                "-" if row["likeness"] is None else f"{row['likeness']:.2f}",
                f"`{row['best']}`",
                f"{row['best_gain']:.3f}",
                f"{row['seconds'] / 60:.0f}",
            ]
        )
    head = [
        "table",
        "family",
        "N recipes",
        "failed",
        "K within 1 / 2 / 5 %",
        "not told from the best",
        "noise",
        "likeness",
    ]
    return table([*head, "best recipe", "its fitness", "minutes to try all"], lines)


def random_table(rows: Sequence[Row]) -> str:
    """Random search in closed form: the chance of having tried one of the good ones, and the expected best rank."""
    lines = []
    for row in rows:
        cells = [row["table"]]
        for name in REGRET_AT:
            hit = row["random"].get(name)
            rank = row["random_rank"].get(name)
            cells.append("" if hit is None else f"{' / '.join(percent(h, 0) for h in hit.values())}, rank {rank:.1f}")
        lines.append(cells)
    return table(["table", *(f"after {named(name)}" for name in REGRET_AT)], lines)


def references_table(rows: Sequence[Row]) -> str:
    """Regret of what needs no search."""
    names = list(rows[0]["references"]) if rows else []
    lines = [
        [row["table"], *("-" if (one := row["references"][name]) is None else reference(one) for name in names)]
        for row in rows
    ]
    return table(["regret of", *names], lines)


def picture(rows: Sequence[Row], mode: str) -> str:
    """The drawing, where there is one."""
    return f"![Regret after each trial, {mode}](images/search_{mode}.svg)" if rows else "Not measured yet."


def regret_table(rows: Sequence[Row]) -> str:
    """Per searcher: mean over tables of the median regret, with its interval over tables."""
    return by_searcher(rows, REGRET_AT, lambda row, name: first(row["regret"].get(name)), percent)


def hits_table(rows: Sequence[Row]) -> str:
    """Per searcher: share of runs within 1 / 2 / 5 % of the best, over all tables."""
    lines = []
    for searcher, own in grouped(rows).items():
        cells = []
        for name in REGRET_AT:
            shares = [mean(row["within"][share].get(name) for row in own) for share in ("1%", "2%", "5%")]
            noise = mean(row["within"]["1% or noise"].get(name) for row in own)
            cells.append(f"{' / '.join(percent(s, 0) for s in shares)} ({percent(noise, 0)})")
        lines.append([searcher, *cells])
    return table(["searcher", *(f"after {named(name)}" for name in REGRET_AT)], lines)


def cost_table(rows: Sequence[Row]) -> str:
    """Per searcher: hypervolume, trials to the target, regret by recorded seconds, own time, failures."""
    lines = []
    for searcher, own in grouped(rows).items():
        volume = [percent(mean(first(row["hypervolume"].get(name)) for row in own)) for name in SHARES]
        expected = [row["to_1%"]["expected"] for row in own]
        never = percent(mean(row["to_1%"]["censored"] for row in own), 0)
        reach = f"{mean(expected):.0f}" if all(value is not None for value in expected) else "-"
        seconds = [percent(mean(row["regret_at_seconds"][name] for row in own)) for name in own[0]["regret_at_seconds"]]
        broken = sum(row["failed_runs"] for row in own)
        worse = sum(row["worse_than_untouched"].get("5", 0) for row in own)
        lines.append(
            [searcher, *volume, reach, never, *seconds, f"{mean(row['own_ms_per_trial'] for row in own):.1f}"]
            + [str(worse), str(broken), str(min(row["seeds"] for row in own))]
        )
    head = ["searcher", *(f"hypervolume at {name}" for name in SHARES), "trials to 1 %", "never", "regret after 60 s"]
    more = ["120 s", "300 s", "own ms per trial", "runs worse than untouched at 5", "runs that broke", "seeds"]
    return table([*head, *more], lines)


def ranks_table(rows: Sequence[Row]) -> str:
    """Average rank over the tables by mean regret; 1 is best."""
    by_budget = {}
    for name in REGRET_AT:
        regrets: dict[str, dict[str, float]] = {}
        for row in rows:
            if name in row["regret"]:
                regrets.setdefault(row["searcher"], {})[row["table"]] = row["mean_curve"][evaluations(row, name)]
        by_budget[name] = average_ranks(regrets)
    lines = [[s, *(f"{by_budget[n][s]:.1f}" if s in by_budget[n] else "" for n in REGRET_AT)] for s in grouped(rows)]
    return table(["searcher", *(f"after {named(name)}" for name in REGRET_AT)], lines)


def comparison_table(rows: Sequence[Row]) -> str:
    """`adaptive` against each other searcher, over tables x seeds."""
    lines = [
        [row["mode"], named(row["budget"]), row["searcher"], f"{100 * row['mean_difference']:+.2f} %"]
        + [f"{row['a12']:.2f}", p_text(row["p_holm"]), f"{row['tables_better']} of {row['tables']}", str(row["pairs"])]
        for row in rows
    ]
    head = [
        "mode",
        "after",
        "against",
        "its regret is larger by",
        "A12",
        "p (Wilcoxon, Holm)",
        "tables better",
        "pairs",
    ]
    return table(head, lines)


def single_tables(rows: Sequence[Row]) -> str:
    """Median regret of each table with its interval over seeds."""
    parts = []
    for mode in MODES:
        for name in dict.fromkeys(row["table"] for row in searches(rows, mode)):
            own = [row for row in searches(rows, mode) if row["table"] == name]
            lines = [[row["searcher"], *(interval(row["regret"].get(b)) for b in REGRET_AT)] for row in own]
            parts.append(f"**{name}, {mode}**\n\n" + table(["searcher", *map(named, REGRET_AT)], lines))
    return "\n\n".join(parts) or "Not measured yet."


def by_searcher(rows: Sequence[Row], names: Sequence[str], value: Any, show: Any) -> str:
    """A line for each searcher: mean over tables, with its interval where there are several."""
    lines = []
    for searcher, own in grouped(rows).items():
        cells = []
        for name in names:
            known = [found for row in own if (found := value(row, name)) is not None]
            centre, low, high = mean_interval(known) if known else (math.nan,) * 3
            spread = f" ({show(low)} to {show(high)})" if math.isfinite(low) else ""
            cells.append(f"{show(centre)}{spread}" if known else "")
        lines.append([searcher, *cells])
    return table(["searcher", *(f"after {named(name)}" for name in names)], lines)


VIEWS = {"regret": regret_table, "hits": hits_table, "cost": cost_table, "ranks": ranks_table}


def of(rows: Sequence[Row], kind: str) -> list[Row]:
    """The rows of one kind."""
    return [row for row in rows if row["kind"] == kind]


def searches(rows: Sequence[Row], mode: str) -> list[Row]:
    """The searches of one mode."""
    return [row for row in of(rows, "search") if row["mode"] == mode]


def grouped(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """Searcher -> its rows."""
    found: dict[str, list[Row]] = {}
    for row in rows:
        found.setdefault(row["searcher"], []).append(row)
    return found


def evaluations(row: Row, budget: str) -> int:
    """The budget of that name in trials."""
    return math.ceil(SHARES[budget] * row["recipes"]) if budget in SHARES else COUNTS[budget]


def named(budget: str) -> str:
    """'5 trials', or '5 % of the space'."""
    return f"{budget} of the space" if budget in SHARES else f"{budget} trials"


def percent(value: float | None, digits: int = 1) -> str:
    """As a percentage; a dash where it is unknown."""
    return "-" if value is None or not math.isfinite(value) else f"{100 * value:.{digits}f} %"


def interval(found: Sequence[float] | None) -> str:
    """A percentage with its interval."""
    return "" if found is None else f"{percent(found[0])} ({percent(found[1])} to {percent(found[2])})"


def reference(one: Sequence[Any]) -> str:
    """Regret and recipe."""
    return f"{percent(one[1])} `{one[0]}`"


def p_text(value: float) -> str:
    """Three digits, or that it is smaller."""
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def first(found: Sequence[float] | None) -> float | None:
    """The middle of an interval."""
    return None if found is None else found[0]


def mean(values: Any) -> float:
    """Mean of what is known, NaN without any."""
    known = [float(value) for value in values if value is not None]
    return sum(known) / len(known) if known else math.nan


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """Markdown; a sentence where there is nothing yet."""
    if not lines:
        return "Not measured yet."
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [list(head), ["---"] * len(head), *map(list, lines)])

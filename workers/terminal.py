"""A run in the terminal: a bar while it goes on, a table and one JSON object when it is over.

Everything shown comes from the hub's named queries, the same ones the pages use, so both always tell the same.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import IO, Any

from hybrid_core.records import BASELINE_KEY, TERMINAL_STATES, Purpose, Recipe
from workers.client import Client

POLL_S = 0.5
RATIOS = {"speed_improvement": "speed", "memory_efficiency": "memory", "accuracy_preservation": "accuracy"}
Row = Mapping[str, Any]


def follow(client: Client, run_id: str, stream: IO[str], sleep: Callable[[float], None] = time.sleep) -> dict[str, Any]:
    """Show the run's progress on `stream` until it is over; returns its row."""
    after = 0
    with _display(stream) as display:
        while True:
            row = client.query("run", run_id=run_id)[0]
            events = client.query("events", run_id=run_id, after=after)
            for event in events:
                after = event["event_id"]
                display.line(event_line(event["kind"], json.loads(event["data_json"])))
            display.progress(json.loads(row["progress_json"] or "{}"))
            if row["state"] in TERMINAL_STATES and not events:
                return row
            if len(events) < 500:
                sleep(POLL_S)


class Bar:
    """A live bar for a terminal; time left counts down between the run's own messages."""

    def __init__(self, stream: IO[str]) -> None:
        from tqdm import tqdm

        self._stream, self._shown_at = stream, time.monotonic()
        self._shown: Row = {}
        bar_format = "{desc} |{bar:24}| {n_fmt}/{total_fmt} measurements {postfix}"
        self._bar = tqdm(total=0, file=stream, bar_format=bar_format, dynamic_ncols=True, leave=False)
        self._bar.set_description_str("waiting for the device")

    def line(self, text: str) -> None:
        """One line above the bar."""
        if text:
            self._bar.write(text, file=self._stream)

    def progress(self, progress: Row) -> None:
        """The newest progress event, or the one that was already shown."""
        if not progress:
            return
        if progress != self._shown:
            self._shown, self._shown_at = progress, time.monotonic()
        self._bar.set_description_str(str(progress.get("stage") or "running"), refresh=False)
        self._bar.total, self._bar.n = progress.get("planned") or 0, progress.get("done") or 0
        self._bar.set_postfix_str(progress_text(progress, time.monotonic() - self._shown_at))

    def close(self) -> None:
        """Take the bar away."""
        self._bar.close()


class Lines:
    """The same for a file or a pipe, where a bar would be a heap of carriage returns: one line per news."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._shown = stream, ""

    def line(self, text: str) -> None:
        """One line."""
        if text:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def progress(self, progress: Row) -> None:
        """The newest progress event, if it says something new."""
        text = ""
        if progress:
            counts = f"{progress.get('done') or 0}/{progress.get('planned') or 0} measurements"
            text = f"{progress.get('stage') or 'running'}: {counts}, {progress_text(progress)}"
        if text != self._shown:
            self._shown = text
            self.line(text)

    def close(self) -> None:
        """Nothing to take away."""


def progress_text(progress: Row, age_s: float = 0.0) -> str:
    """Best so far and time left of a progress event that is `age_s` old."""
    parts = []
    if progress.get("best_key"):
        parts.append(f"best {progress['best_fitness']:.3f} {progress['best_key']}")
    if progress.get("remaining_s") is not None:
        parts.append(f"about {max(0.0, progress['remaining_s'] - age_s):.0f} s left")
    return ", ".join(parts)


@contextlib.contextmanager
def _display(stream: IO[str]) -> Iterator[Bar | Lines]:
    display = Bar(stream) if stream.isatty() else Lines(stream)
    try:
        yield display
    finally:
        display.close()


def event_line(kind: str, data: Row) -> str:
    """One line for an event worth a line, else an empty text."""
    if kind == "skipped":
        return f"  skipped {data['key']}: {data['reason']}"
    if kind != "trial_finished":
        return ""
    trial, measured = data["trial"], data["trial"].get("measurement")
    name = Recipe.from_dict(trial["recipe"]).key
    if not measured:
        return f"  {name}: {trial['outcome']}: {trial['reason']}"
    ratios = ", ".join(f"{short} {_number(measured[long]['value'])}x" for long, short in RATIOS.items())
    reason = data.get("infeasible_reason")
    return f"  {name}: {ratios}{f' ({reason})' if reason else ''}"


def table(trials: Sequence[Row]) -> str:
    """The trials as text, the final race last."""
    head = ("recipe", "purpose", "outcome", "speed", "memory", "accuracy", "fitness", "")
    rows = [head, *(_table_row(trial) for trial in trials)]
    widths = [max(len(row[i]) for row in rows) for i in range(len(head) - 1)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, [*widths, 0], strict=True)) for row in rows
    )


def _table_row(trial: Row) -> tuple[str, ...]:
    numbers = [interval_text(trial, name) for name in ("speed", "memory", "accuracy")]
    remark = trial["infeasible_reason"] or (trial["reason"] if trial["outcome"] != "ok" else trial["verdict"]) or ""
    names = (trial["recipe_key"], trial["purpose"], trial["outcome"])
    return (*names, *numbers, _number(trial["fitness"]), str(remark))


def interval_text(row: Row, name: str) -> str:
    """For example '1.78 [1.74, 1.83]'; a dash for unknown."""
    if row.get(name) is None:
        return "-"
    return f"{_number(row[name])} [{_number(row[name + '_low'])}, {_number(row[name + '_high'])}]"


def summary(run: Row) -> str:
    """What the run found, in a few lines."""
    lines = [f"Run {run['run_id']} is {run['state']}: {run['cause']}"]
    if run["winner_key"] is not None:
        lines.append(f"winner: {run['winner_key']}")
        lines += [f"  {long}: {interval_text(run, short)}" for long, short in RATIOS.items()]
        lines.append(
            f"  fitness: {interval_text(run, 'fitness')} (untouched model: {_number(run['baseline_fitness'])})"
        )
    return "\n".join(lines)


def report(run: Row, trials: Sequence[Row]) -> dict[str, Any]:
    """The object that `--json` prints: {run, trials, baseline, winner}."""
    facts = {name: value for name, value in run.items() if not name.endswith("_json")}
    return {
        "run": {**facts, "config": _parsed(run["config_json"]), "result": _parsed(run["result_json"])},
        "trials": [trial_object(trial) for trial in trials],
        "baseline": baseline_object(run, trials),
        "winner": winner_object(run, trials),
    }


def trial_object(trial: Row) -> dict[str, Any]:
    """A trial with its texts of JSON opened and its ratios as {value, low, high}."""
    opened = {name.removesuffix("_json"): _parsed(value) for name, value in trial.items() if name.endswith("_json")}
    plain = {name: value for name, value in trial.items() if not name.endswith(("_json", "_low", "_high"))}
    return {**plain, **opened, **{long: estimate(trial, short) for long, short in RATIOS.items()}}


def winner_object(run: Row, trials: Sequence[Row]) -> dict[str, Any] | None:
    """The winner by the numbers of the final race; None for a run without one."""
    if run["winner_key"] is None:
        return None
    final = _trial(trials, run["winner_key"], Purpose.FINAL) or {}
    return {
        "recipe": Recipe.from_key(run["winner_key"]).to_dict(),
        "key": run["winner_key"],
        "fitness": run["fitness"],
        "fitness_interval": estimate(run, "fitness"),
        **{long: estimate(run, short) for long, short in RATIOS.items()},
        **{name: final.get(name) for name in ("latency_ms", "peak_bytes", "first_call_s", "break_even_calls")},
        "trial_id": final.get("trial_id"),
        "changes": _parsed(final.get("changes_json")),
        "sentence": run["cause"],
    }


def baseline_object(run: Row, trials: Sequence[Row]) -> dict[str, Any]:
    """The untouched model: its fitness by definition, and how it measured against itself."""
    trial = _trial(trials, BASELINE_KEY, Purpose.FINAL) or _trial(trials, BASELINE_KEY, Purpose.BASELINE) or {}
    numbers = {name: trial.get(f"baseline_{name}") for name in ("latency_ms", "peak_bytes", "weight_bytes")}
    against_itself = {long: estimate(trial, short) for long, short in RATIOS.items()}
    return {"recipe": {}, "fitness": run["baseline_fitness"], **numbers, **against_itself}


def estimate(row: Row, name: str) -> dict[str, float] | None:
    """{value, low, high} of a row's columns, None where unknown."""
    if row.get(name) is None:
        return None
    return {"value": row[name], "low": row[f"{name}_low"], "high": row[f"{name}_high"]}


def _trial(trials: Sequence[Row], key: str, purpose: str) -> Row | None:
    return next((t for t in trials if t["recipe_key"] == key and t["purpose"] == purpose), None)


def _parsed(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"

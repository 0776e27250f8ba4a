"""`python -m workers repeat <trial>`: measure a stored trial again in fresh processes and say whether it agrees."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from typing import IO, Any

from hybrid_core.errors import HubUnavailable, InvalidInput
from hybrid_core.records import Estimate, Measurement, RunState
from hybrid_core.repetition import Repetition, agrees, compare, environment_differences, moved, sentence
from workers import terminal
from workers.client import Client
from workers.paths import data_paths

EXIT_AGREES, EXIT_DIFFERS, EXIT_CANNOT, EXIT_INTERRUPTED = 0, 1, 2, 130
MOST_TEXT = 90
Row = Mapping[str, Any]


def add_commands(commands: Any) -> None:
    """`repeat` among the commands of a parser."""
    repeat = commands.add_parser("repeat", help="measure a stored trial again and say whether it agrees")
    repeat.add_argument("trial", help="a trial's id, as the page of its run shows it")
    text = "measure although the processor, the device's card or torch is another one than then"
    repeat.add_argument("--anyway", action="store_true", help=text)
    repeat.set_defaults(act=repeat_trial)


def repeat_trial(options: argparse.Namespace) -> int:
    """Have it measured again when its device is free, print then and now side by side.

    Raises:
        InvalidInput: it cannot be repeated; the sentence says why.
    """
    client = Client(data_paths())
    if not client.is_reachable():
        raise HubUnavailable(f"no hub serves {client.paths.root}; start it with `python -m workers hub`")
    repetition = stored(client, options.trial)
    for reason in elsewhere(client, repetition):
        if not options.anyway:
            raise InvalidInput(f"{reason}, so other figures are to be expected; add --anyway to measure all the same")
        _tell(f"{reason}; measuring all the same", sys.stderr)
    run_id = client.submit(order_of(client, repetition))
    tell_wait(client, run_id, repetition)
    try:
        run = terminal.follow(client, run_id, sys.stderr)
    except KeyboardInterrupt:
        _tell(f"\n{client.cancel(run_id)}", sys.stderr)
        return EXIT_INTERRUPTED
    if run["state"] != RunState.FINISHED:
        _tell(f"it was not measured again: run {run_id} is {run['state']}: {run['cause']}", sys.stderr)
        return EXIT_CANNOT
    return conclude(client, run_id, repetition)


def stored(client: Client, trial_id: str) -> Repetition:
    """What is to be repeated, from the trial's stored measurement alone."""
    rows = client.query("trial", trial_id=trial_id)
    if not rows:
        raise InvalidInput(f"trial {trial_id!r:.120} does not exist; the page of its run shows the ids of its trials")
    text = rows[0]["measurement_json"]
    return Repetition.of(trial_id, None if text is None else json.loads(text))


def elsewhere(client: Client, repetition: Repetition) -> list[str]:
    """Why this is another machine than the one of the trial; empty where it is the same as far as is known."""
    catalog, subject = client.catalog(), repetition.request.subject
    known = catalog["environment"]
    here = {"torch": known.get("torch"), "cpu_model": known.get("cpu")}
    here["gpu"] = next((device["title"] for device in catalog["devices"] if device["id"] == subject.device), None)
    if subject.device == "cpu":
        del here["gpu"]
    return moved(repetition.original.environment, here)


def order_of(client: Client, repetition: Repetition) -> dict[str, Any]:
    """The configuration to submit: the original run's, with a note and the trial to repeat."""
    runs = client.query("run", run_id=repetition.request.run_id)
    if not runs:
        raise InvalidInput(f"run {repetition.request.run_id!r:.60} of this trial is not stored, only its measurement")
    note = f"repeats {repetition.trial_id}"
    return {**json.loads(runs[0]["config_json"]), "note": note[:200], "repeats": repetition.trial_id}


def tell_wait(client: Client, run_id: str, repetition: Repetition) -> None:
    """Say under which run it is stored, and whether something else is measured first."""
    device = repetition.request.subject.device
    others = [row for row in client.query("runs") if row["run_id"] != run_id]
    busy = [row for row in others if row["state"] == RunState.RUNNING and row["device"] == device]
    first = f"; {device} is measured on by run {busy[0]['run_id']}, this waits for it" if busy else ""
    many = f"{repetition.processes} processes" if repetition.processes > 1 else "one process"
    _tell(f"run {run_id} measures it again in {many}{first}; Ctrl-C cancels it", sys.stderr)


def conclude(client: Client, run_id: str, repetition: Repetition) -> int:
    """Print both measurements and the verdict; the exit code."""
    trial = client.query("trials", run_id=run_id)[-1]
    if trial["outcome"] != "ok":
        _tell(f"it does not agree: this time it ended as {trial['outcome']}: {trial['reason']}")
        return EXIT_DIFFERS
    text = client.query("trial", trial_id=trial["trial_id"])[0]["measurement_json"]
    repeated = Measurement.from_json(json.loads(text))
    findings = compare(repetition.original, repeated)
    _tell(side_by_side(repetition.original, repeated))
    _tell(differences_text(repetition.original, repeated))
    _tell(f"stored as {trial['trial_id']}")
    _tell(sentence(findings))
    return EXIT_AGREES if agrees(findings) else EXIT_DIFFERS


def side_by_side(original: Measurement, repeated: Measurement) -> str:
    """Each figure then and now, as a table."""
    verdicts = {finding.name: finding.verdict for finding in compare(original, repeated)}
    old, new = _figures(original), _figures(repeated)
    rows = [("", "then", "now", ""), *((name, old[name], new[name], verdicts.get(name, "")) for name in old)]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def _figures(measured: Measurement) -> dict[str, str]:
    quality = measured.quality
    return {
        "speed": _interval(measured.speed_improvement),
        "memory": _interval(measured.memory_efficiency),
        "accuracy kept": _interval(measured.accuracy_preservation),
        "latency in ms": _interval(measured.latency_ms),
        "latency of the untouched model": _interval(measured.baseline_latency_ms),
        "peak bytes": f"{measured.peak_bytes:,}",
        "peak bytes of the untouched model": f"{measured.baseline_peak_bytes:,}",
        quality.metric: f"{quality.value.value:.4f} on {quality.samples}",
        f"{quality.metric} of the untouched model": f"{quality.baseline_value.value:.4f}",
        "largest error": f"{measured.max_abs_error:.3g}",
        "timed pairs": str(len(measured.pairs_ms)),
    }


def differences_text(original: Measurement, repeated: Measurement) -> str:
    """What is not the same in the environment, a line each."""
    found = environment_differences(original.environment, repeated.environment)
    if not found:
        return "the environment is the same in all that is stored"
    return "\n".join(
        ["what differs:", *(f"  {name}: {_short(a)} then, {_short(b)} now" for name, (a, b) in found.items())]
    )


def _tell(text: str, stream: IO[str] | None = None) -> None:
    (stream or sys.stdout).write(f"{text}\n")


def _interval(found: Estimate) -> str:
    return f"{found.value:.4g} [{found.low:.4g}, {found.high:.4g}]"


def _short(value: Any) -> str:
    listed = [round(v, 2) if isinstance(v, float) else v for v in value] if isinstance(value, list) else value
    text = listed if isinstance(listed, str) else json.dumps(listed)
    return text if len(text) <= MOST_TEXT else f"{text[: MOST_TEXT - 3]}..."

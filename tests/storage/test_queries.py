"""Named queries: the columns are a contract, the numbers are what plain Python finds in the same events."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from sample_events import START_TIME, make_config, make_run_events, make_subject, spool_events

from hybrid_core.errors import InvalidInput
from hybrid_core.records import to_json
from storage.brought_models import create_brought
from storage.connection import Database
from storage.ingest import drain
from storage.queries import NAMED, run_query
from storage.runs import create_run, mark_running
from storage.samples import DeviceSample, insert_device_samples


def spread(*names: str) -> list[str]:
    return [name + end for name in names for end in ("", "_low", "_high")]


RUN = [
    *"run_id state cause note created_at started_at ended_at model size workload workload_label device threads".split(),
    *"method budget_s config_json progress_json winner_key".split(),
    *spread("fitness"),
    "baseline_fitness",
    *spread("speed", "memory", "accuracy"),
    *"trials trials_ok trials_failed".split(),
]
SAMPLE = "utilization_percent memory_used_bytes memory_total_bytes power_w temperature_c clock_mhz detail_json".split()
CONTRACT = {
    "runs": RUN,
    "run": [*RUN, "result_json", "subject_json"],
    "trials": [
        *"trial_id recipe_key recipe_json purpose outcome reason stage iteration verdict infeasible_reason".split(),
        *"started_at seconds".split(),
        *spread("fitness", "speed", "memory", "accuracy"),
        *"latency_ms baseline_latency_ms peak_bytes baseline_peak_bytes weight_bytes baseline_weight_bytes".split(),
        *"first_call_s break_even_calls pairs stop_reason max_abs_error quality_metric quality_value".split(),
        *"quality_baseline quality_samples warnings_json changes_json log_tail".split(),
    ],
    "trial": ["measurement_json", "environment_json"],
    "events": ["event_id", "time", "kind", "data_json"],
    "leaderboard": [
        *"run_id ended_at model size workload workload_label device threads winner_key".split(),
        *spread("fitness"),
        "baseline_fitness",
        *spread("speed", "memory", "accuracy"),
        *"latency_ms baseline_latency_ms peak_bytes baseline_peak_bytes method trials".split(),
    ],
    "device_samples": ["time", *SAMPLE],
    "devices": ["device", "kind", "title", "last_time", *SAMPLE, "processes_json"],
    "history": [
        *"recipe_key model family size workload device outcome".split(),
        *spread("speed", "memory", "accuracy"),
    ],
    "workers": "run_id pid attempt state heartbeat_at current_trial current_phase started_at".split(),
    "noise": [
        *"trial_id run_id recipe_key purpose model size workload_label threads started_at".split(),
        *"processor rounds_json flagged".split(),
        *spread("speed"),
    ],
    "synergies": [
        *"run_id model family workload workload_label device ended_at recipe_key objective steps".split(),
        *spread("measured", "product", "synergy"),
        *"verdict trials_json".split(),
    ],
    "conflicts": [
        *"conflict_id recipe_key family model device versions outcome reason stage run_id trial_id".split(),
        *"started_at seconds evidence".split(),
    ],
    "brought_models": "name model_id kind path labels state reason created_at ended_at".split(),
    "ingest_errors": "file offset text error time".split(),
}


def new_run(db: Database, model: str = "llama", device: str = "cpu") -> str:
    return create_run(db, to_json(make_config(model, device)), to_json(make_subject(model, device)), family="language")


def fill(db: Database, spool_dir: Path, seeds: range = range(4)) -> dict[str, list[dict[str, Any]]]:
    runs = {}
    for seed in seeds:
        run_id = new_run(db)
        mark_running(db, run_id, 1, 100 + seed, 1.0)
        runs[run_id] = make_run_events(run_id, seed)
        spool_events(spool_dir, run_id, runs[run_id])
    create_brought(db, "mine", "huggingface", "/models/mine")
    (spool_dir / "junk.1.jsonl").write_bytes(b"junk\n")
    drain(db, spool_dir)
    insert_device_samples(db, [DeviceSample("cpu", "cpu", "Example CPU", START_TIME, 12.5, 100, 200)])
    return runs


def fill_ensembles(db: Database, run_id: str) -> None:
    """A synergy, and a pair that crashed though both of its steps work."""
    numbers = ", ".join(["1.0"] * 9)
    with db.transaction() as cursor:
        cursor.execute("insert into synergies values (?, 'a=x+b=y', 'speed', 2, " + numbers + ", 'x', '[]')", [run_id])
        cursor.execute("update runs set versions = 'these' where run_id = ?", [run_id])
        for number, (key, outcome) in enumerate((("a=x", "ok"), ("b=y", "ok"), ("a=x+b=y", "crashed"))):
            cursor.execute(
                "insert into trials (trial_id, run_id, attempt, seq, recipe_key, recipe_json, purpose, outcome, "
                "reason, stage, started_at, seconds, log_tail) "
                "values (?, ?, 9, ?, ?, '{}', 'search', ?, '', '', 1, 1, '')",
                [f"{run_id}:{key}", run_id, number, key, outcome],
            )


def rows(db: Database, name: str, **params: Any) -> list[dict[str, Any]]:
    return run_query(db, name, params).to_pylist()


def required(name: str, run_id: str) -> dict[str, Any]:
    wanted = {"run_id": run_id, "trial_id": f"{run_id}:baseline:baseline", "device": "cpu", "since": 0}
    return {key: wanted[key] for key in NAMED[name].parameters if key in wanted}


@pytest.mark.parametrize("name", CONTRACT)
def test_columns_and_types_are_the_same_on_an_empty_and_a_filled_database(
    db: Database, spool_dir: Path, name: str
) -> None:
    empty = run_query(db, name, required(name, "none"))
    assert isinstance(empty, pa.Table) and empty.num_rows == 0
    run_id = next(iter(fill(db, spool_dir, range(2))))
    if name in ("synergies", "conflicts"):
        fill_ensembles(db, run_id)
    full = run_query(db, name, required(name, run_id))
    assert full.num_rows > 0
    assert empty.schema.names == full.schema.names == CONTRACT[name]
    assert empty.schema.types == full.schema.types
    reader = pa.ipc.open_stream(pa.BufferReader(stream_of(full)))
    assert reader.read_all().to_pylist() == full.to_pylist()


def stream_of(table: pa.Table) -> pa.Buffer:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue()


def test_the_contract_names_every_query() -> None:
    assert set(CONTRACT) == set(NAMED)


def test_run_counts_and_trial_numbers_equal_a_plain_count_of_the_events(db: Database, spool_dir: Path) -> None:
    for run_id, events in fill(db, spool_dir).items():
        told = [e["data"] for e in events if e["kind"] == "trial_finished"]
        (run,) = rows(db, "run", run_id=run_id)
        good = [t for t in told if t["trial"]["outcome"] == "ok"]
        assert (run["trials"], run["trials_ok"], run["trials_failed"]) == (len(told), len(good), len(told) - len(good))
        for row, data in zip(rows(db, "trials", run_id=run_id), told, strict=True):
            measured = data["trial"]["measurement"]
            assert (row["outcome"], row["reason"]) == (data["trial"]["outcome"], data["trial"]["reason"])
            if measured is None:
                assert row["speed"] is row["pairs"] is row["fitness"] is None
            else:
                assert row["pairs"] == len(measured["pairs_ms"])
                assert row["latency_ms"] == measured["latency_ms"]["value"]
                assert row["fitness_low"] == pytest.approx(
                    0.4 * row["speed_low"] + 0.3 * row["memory_low"] + 0.3 * row["accuracy_low"]
                )


def test_the_pareto_front_of_the_rows_is_the_front_of_the_events(db: Database, spool_dir: Path) -> None:
    for run_id, events in fill(db, spool_dir).items():
        found = {
            row["trial_id"]: (row["speed"], row["memory"], row["accuracy"])
            for row in rows(db, "trials", run_id=run_id)
            if row["outcome"] == "ok"
        }
        names = ("speed_improvement", "memory_efficiency", "accuracy_preservation")
        told = {
            t["trial_id"]: tuple(t["measurement"][n]["value"] for n in names)
            for t in (e["data"]["trial"] for e in events if e["kind"] == "trial_finished")
            if t["outcome"] == "ok"
        }
        assert front(found) == front(told) != set()


def front(points: dict[str, tuple[float, ...]]) -> set[str]:
    def dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
        return a != b and all(x >= y for x, y in zip(a, b, strict=True))

    return {name for name, p in points.items() if not any(dominates(q, p) for q in points.values())}


def test_the_noise_of_a_device_is_told_by_its_young_baselines_and_finals(db: Database, spool_dir: Path) -> None:
    runs = fill(db, spool_dir, range(6))
    told = [
        (event["data"]["trial"], rows(db, "run", run_id=run_id)[0]["device"])
        for run_id, events in runs.items()
        for event in events
        if event["kind"] == "trial_finished" and event["data"]["trial"]["outcome"] == "ok"
    ]
    starts = sorted(trial["started_at"] for trial, _ in told)
    since = starts[len(starts) // 2]
    for device in {device for _, device in told}:
        wanted = {
            trial["trial_id"]
            for trial, where in told
            if where == device and trial["started_at"] >= since and (trial["purpose"] == "final" or not trial["recipe"])
        }
        found = rows(db, "noise", device=device, since=since)
        assert {row["trial_id"] for row in found} == wanted
        assert all(row["speed_low"] <= row["speed"] <= row["speed_high"] for row in found)


@pytest.mark.parametrize("purpose", ["final", "repeat"])
def test_the_processes_of_a_final_and_its_processor_come_with_the_noise(
    db: Database, spool_dir: Path, purpose: str
) -> None:
    run_id = new_run(db)
    events = make_run_events(run_id, seed=3)
    data = next(e["data"] for e in events if e["kind"] == "trial_finished" and e["data"]["trial"]["purpose"] == "final")
    rounds = [{"ratio": 1.1, "low": 1.0, "high": 1.2}, {"ratio": 1.2, "low": 1.1, "high": 1.3}]
    found = {"rounds": rounds, "cpu_model": "A chip", "conditions": {"flagged": True}}
    data["trial"]["measurement"]["environment"] |= found
    data["trial"]["purpose"] = purpose
    spool_events(spool_dir, run_id, events)
    drain(db, spool_dir)
    (row,) = [r for r in rows(db, "noise", device="cpu", since=0) if r["trial_id"] == data["trial"]["trial_id"]]
    assert json.loads(row["rounds_json"]) == rounds and row["processor"] == "A chip" and row["flagged"] is True


def test_the_leaderboard_is_the_winners_of_finished_runs_by_fitness(db: Database, spool_dir: Path) -> None:
    runs = fill(db, spool_dir, range(6))
    unfinished = new_run(db)
    spool_events(spool_dir, unfinished, make_run_events(unfinished, seed=99)[:-1])
    drain(db, spool_dir)
    wanted = []
    for run_id, events in runs.items():
        key = events[-1]["data"]["winner"]["key"]
        told = [e["data"] for e in events if e["kind"] == "trial_finished"]
        (final,) = [t for t in told if t["trial"]["trial_id"] == f"{run_id}:final:{key}"]
        measured = final["trial"]["measurement"]
        wanted.append((final["fitness"]["value"], run_id, key, measured["peak_bytes"], len(told)))
    wanted.sort(reverse=True)
    found = rows(db, "leaderboard")
    assert [(r["fitness"], r["run_id"], r["winner_key"], r["peak_bytes"], r["trials"]) for r in found] == wanted
    assert [r["run_id"] for r in rows(db, "leaderboard", limit=2)] == [w[1] for w in wanted[:2]]
    assert rows(db, "leaderboard", model="convnet") == rows(db, "leaderboard", device="GPU-1") == []


def test_events_are_paged_without_gap_or_overlap(db: Database, spool_dir: Path) -> None:
    run_id = next(iter(fill(db, spool_dir)))
    whole, paged, after = rows(db, "events", run_id=run_id, limit=5000), [], 0
    while page := rows(db, "events", run_id=run_id, after=after, limit=7):
        paged += page
        after = page[-1]["event_id"]
    assert paged == whole and len(whole) > 14


def test_history_has_one_row_per_run_and_recipe_and_prefers_the_final_race(db: Database, spool_dir: Path) -> None:
    runs = fill(db, spool_dir)
    wanted: dict[tuple[str, str], dict[str, Any]] = {}
    for run_id, events in runs.items():
        for trial in (e["data"]["trial"] for e in events if e["kind"] == "trial_finished"):
            key = "+".join(f"{k}={v}" for k, v in sorted(trial["recipe"].items()))
            if key and (trial["purpose"] == "final" or (run_id, key) not in wanted):
                wanted[run_id, key] = trial
    expected = sorted(
        (key, t["outcome"], t["measurement"] and t["measurement"]["speed_improvement"]["value"])
        for (_, key), t in wanted.items()
    )
    found = rows(db, "history", family="language", device="cpu")
    assert sorted((r["recipe_key"], r["outcome"], r["speed"]) for r in found) == expected
    assert rows(db, "history", family="vision") == []
    assert len(rows(db, "history")) == len(found)


def sample(second: float, load: float, device: str = "cpu") -> DeviceSample:
    return DeviceSample(device, "cpu", "Example CPU", START_TIME + second, load, int(1000 + load), 8000)


def test_few_samples_come_back_as_they_are(db: Database) -> None:
    insert_device_samples(db, [sample(s, load) for s, load in ((0, 10.0), (1, 20.0), (500, 30.0))])
    insert_device_samples(db, [sample(3, 99.0, "GPU-1")])
    found = rows(db, "device_samples", device="cpu", since=START_TIME + 1)
    assert [(r["time"], r["utilization_percent"]) for r in found] == [(START_TIME + 1, 20.0), (START_TIME + 500, 30.0)]
    assert found[0]["temperature_c"] is None and found[0]["power_w"] is None


@pytest.mark.parametrize("max_points", [1, 7, 60])
def test_many_samples_are_averaged_in_equal_slices_of_time(db: Database, max_points: int) -> None:
    loads = [float((k * 37) % 101) for k in range(200)]
    insert_device_samples(db, [sample(k, load) for k, load in enumerate(loads)])
    found = rows(db, "device_samples", device="cpu", since=0, max_points=max_points)
    slices: dict[int, list[int]] = {}
    for k in range(200):
        slices.setdefault(min(math.floor(k / (199 / max_points)), max_points - 1), []).append(k)
    assert len(found) == len(slices) <= max_points
    for row, members in zip(found, slices.values(), strict=True):
        assert row["utilization_percent"] == pytest.approx(sum(loads[k] for k in members) / len(members))
        assert row["time"] == START_TIME + members[-1]


def test_devices_show_their_latest_sample_and_processes(db: Database) -> None:
    insert_device_samples(db, [sample(0, 1.0), sample(0, 5.0, "GPU-1")])
    busy = DeviceSample("cpu", "cpu", "Example CPU", START_TIME + 9, 80.0, processes=[{"pid": 7, "name": "x'; --"}])
    insert_device_samples(db, [busy])
    cpu, gpu = sorted(rows(db, "devices"), key=lambda r: r["device"] != "cpu")
    assert (cpu["last_time"], cpu["utilization_percent"]) == (START_TIME + 9, 80.0)
    assert json.loads(cpu["processes_json"]) == [{"pid": 7, "name": "x'; --"}]
    assert (gpu["device"], gpu["utilization_percent"], cpu["memory_used_bytes"]) == ("GPU-1", 5.0, None)


@pytest.mark.parametrize(
    ("name", "params", "said"),
    [
        ("drop", {}, "choose one of runs, run, trials"),
        ("runs; drop table runs", {}, "is unknown"),
        ("runs", {"limti": 3}, "'limti' of query runs is unknown; allowed: limit"),
        ("run", {}, "needs the parameter run_id"),
        ("run", {"run_id": 3}, "give text"),
        ("run", {"run_id": "a\x00b"}, "give text"),
        ("run", {"run_id": "\ud800"}, "give text"),
        ("run", {"run_id": "x" * 501}, "at most 500"),
        ("runs", {"limit": 0}, "give 1 to 5000"),
        ("runs", {"limit": 5001}, "give 1 to 5000"),
        ("runs", {"limit": True}, "a whole number"),
        ("runs", {"limit": "1; drop table runs"}, "a whole number"),
        ("runs", {"limit": 1.5}, "a whole number"),
        ("events", {"run_id": "x", "after": -1}, "give 0 to"),
        ("events", {"run_id": "x", "after": 2**63}, "give 0 to"),
        ("device_samples", {"device": "cpu", "since": math.nan}, "a number"),
        ("device_samples", {"device": "cpu", "since": 0, "max_points": 5001}, "give 1 to 5000"),
    ],
)
def test_what_is_not_allowed_is_refused_with_what_is(
    db: Database, name: str, params: dict[str, Any], said: str
) -> None:
    with pytest.raises(InvalidInput) as caught:
        run_query(db, name, params)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["'; drop table runs; --", '"', "%", "💥", "\\", "$limit", "\u202e"])
def test_parameters_are_data_and_never_sql(db: Database, text: str) -> None:
    new_run(db)
    assert rows(db, "run", run_id=text) == rows(db, "leaderboard", model=text) == []
    assert len(rows(db, "runs")) == 1

"""Kills and full disks: afterwards the database holds what the spool holds, each line once."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from pathlib import Path

import pytest
from sample_events import StepClock, make_run_events, spool_events

from storage.connection import open_database
from storage.ingest import drain

FULL_DISK = """
import resource, sys
from pathlib import Path
from storage import ingest
from storage.connection import open_database
from storage.queries import run_query
path, spool = Path(sys.argv[1]), Path(sys.argv[2])
db = open_database(path)
ingest.TICK_BYTES = 100_000
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[3]), resource.RLIM_INFINITY))
failures, ticks = 0, 0
while (result := ingest.ingest_once(db, spool)).more or result.error:
    ticks += 1
    if result.error:
        failures += 1
        print(result.error)
        print(db.checkpoint())
        assert run_query(db, "runs").num_rows <= 6  # pages are answered all the while
        if failures == 3:
            resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
print(ticks, failures)
db.close()
"""


@pytest.mark.parametrize("limit_bytes", [1_000, 250_000])
def test_a_full_disk_under_the_database_is_survived_without_loss(
    tmp_path: Path, spool_dir: Path, limit_bytes: int
) -> None:
    for n in range(6):
        spool_events(spool_dir, f"run{n}", make_run_events(f"run{n}", seed=n))
    path = tmp_path / "history.duckdb"
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, path, spool_dir, str(limit_bytes)],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert int(done.stdout.split()[-1]) == 3, done.stdout
    assert_database_equals_spool(path, spool_dir)


WRITER = """
import sys
from pathlib import Path
from sample_events import make_run_events
from storage.spool import SpoolWriter, attempts_of
spool = Path(sys.argv[1])
attempt = max(attempts_of(spool, "run1"), default=0) + 1
with SpoolWriter(spool, "run1", attempt) as writer:
    for n in range(40):
        for event in make_run_events("run1", seed=attempt * 1000 + n)[:-1]:
            if event["kind"] == "trial_finished":
                event["data"]["trial"]["trial_id"] += f":{attempt}:{n}"
            writer.write(event["kind"], event["data"])
        print(n, flush=True)
    sys.stdin.read()
"""

INGESTER = """
import sys
from pathlib import Path
from storage.connection import open_database
from storage.ingest import ingest_once
db = open_database(Path(sys.argv[1]))
while True:
    result = ingest_once(db, Path(sys.argv[2]))
    assert result.error is None, result.error
    print(result.lines, flush=True)
"""


def start(program: str, *arguments: object) -> subprocess.Popen[str]:
    setup = f"import sys; sys.path[:0] = {[str(Path(__file__).parent), str(Path.cwd())]!r}\n"
    command = [sys.executable, "-c", setup + program, *map(str, arguments)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_killing_writer_and_ingester_at_random_moments_loses_and_doubles_nothing(
    tmp_path: Path, spool_dir: Path
) -> None:
    rng = random.Random(11)
    path = tmp_path / "history.duckdb"
    programs = [(WRITER, spool_dir), (INGESTER, path, spool_dir)]
    processes = [start(*program) for program in programs]
    try:
        for number in range(6):
            victim = number % 2
            # Output, not time, decides the moment: after so many lines, in the middle of whatever comes next.
            for _ in range(rng.randrange(1, 6)):
                assert processes[victim].stdout.readline()  # type: ignore[union-attr]
            kill(processes[victim])
            processes[victim] = start(*programs[victim])
    finally:
        for process in processes:
            kill(process)
    assert len(list(spool_dir.glob("*.jsonl"))) >= 3
    assert_database_equals_spool(path, spool_dir)


def assert_database_equals_spool(path: Path, spool_dir: Path) -> None:
    """The spool files, read by nothing but the json module, are the truth."""
    db = open_database(path, StepClock())
    assert db.notices == []
    drain(db, spool_dir)
    lines = []
    for file in spool_dir.glob("*.jsonl"):
        lines += [json.loads(line) for line in file.read_bytes().split(b"\n")[:-1]]
    truth = sorted((r["run_id"], r["attempt"], r["seq"], r["kind"]) for r in lines if r["kind"] != "heartbeat")
    found = db.cursor().execute("select run_id, attempt, seq, kind from events").fetchall()
    assert sorted(found) == truth
    trials = sorted(r["data"]["trial"]["trial_id"] for r in lines if r["kind"] == "trial_finished")
    assert sorted(t for (t,) in db.cursor().execute("select trial_id from trials").fetchall()) == sorted(set(trials))
    assert db.cursor().execute("select count(*) from ingest_errors").fetchone() == (0,)
    db.close()

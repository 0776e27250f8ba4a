"""Opening, refusing, recovering: what a person sees when the file is locked, damaged, newer or older."""

from __future__ import annotations

import os
import random
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path

import duckdb
import pytest
from sample_events import StepClock, make_run_events, spool_events

from storage.connection import Database, DatabaseUnavailable, open_database
from storage.ingest import drain
from storage.migrations import MIGRATIONS, SchemaTooNew, migrate, schema_version
from storage.queries import NAMED, run_query


def test_a_second_process_is_told_which_process_has_the_file(db: Database) -> None:
    program = (
        "import sys; from pathlib import Path; from storage.connection import open_database, DatabaseLocked\n"
        "try: open_database(Path(sys.argv[1]))\n"
        "except DatabaseLocked as error: print(error)"
    )
    done = subprocess.run([sys.executable, "-c", program, db.path], capture_output=True, text=True)
    assert f"process {os.getpid()} " in done.stdout, done.stderr
    assert not list(db.path.parent.glob("*corrupt*"))


@pytest.mark.parametrize(
    "statement",
    [
        "select * from read_csv('/etc/passwd')",
        "copy (select 1) to '/tmp/never.csv'",
        "attach '/tmp/other.duckdb'",
        "install httpfs",
        "load '/tmp/x.duckdb_extension'",
        "set enable_external_access = true",
        "set lock_configuration = false",
        "set autoinstall_known_extensions = true",
    ],
)
def test_the_open_database_reaches_nothing_outside_itself(db: Database, statement: str) -> None:
    with pytest.raises(duckdb.Error):
        db.cursor().execute(statement)


def test_python_variables_are_never_tables(db: Database) -> None:
    secret = [1, 2, 3]  # noqa: F841
    with pytest.raises(duckdb.CatalogException):
        db.cursor().sql("select * from secret")


def test_threads_read_and_write_side_by_side(db: Database) -> None:
    errors: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for step in range(10):
                with db.transaction() as cursor:
                    cursor.execute("insert into submissions values (?, 'r', 0)", [f"{number}-{step}"])
                run_query(db, "runs")
        except BaseException as error:  # noqa: BLE001
            errors.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert db.cursor().execute("select count(*) from submissions").fetchone() == (40,)


def test_an_exception_inside_a_transaction_leaves_nothing(db: Database) -> None:
    with pytest.raises(KeyError), db.transaction() as cursor:
        cursor.execute("insert into submissions values ('t', 'r', 0)")
        raise KeyError("mine")
    assert db.cursor().execute("select count(*) from submissions").fetchone() == (0,)


def test_a_fatal_error_is_followed_by_opening_the_file_again(db: Database) -> None:
    with db.transaction() as cursor:
        cursor.execute("insert into submissions values ('t', 'r', 0)")
    with pytest.raises(DatabaseUnavailable), db.transaction():
        raise duckdb.FatalException("FATAL Error: database has been invalidated")
    assert db.cursor().execute("select token from submissions").fetchall() == [("t",)]


def test_closing_leaves_one_file_without_a_log_and_ends_the_use(tmp_path: Path) -> None:
    db = open_database(tmp_path / "h.duckdb", StepClock())
    with db.transaction() as cursor:
        cursor.execute("insert into submissions values ('t', 'r', 0)")
    assert db.close() is None and db.close() is None
    assert [p.name for p in tmp_path.iterdir()] == ["h.duckdb"]
    assert (tmp_path / "h.duckdb").stat().st_mode & 0o777 == 0o600
    with pytest.raises(DatabaseUnavailable, match="is closed"):
        run_query(db, "runs")


def filled(tmp_path: Path, spool_dir: Path) -> tuple[Path, int]:
    path = tmp_path / "history.duckdb"
    spool_events(spool_dir, "run1", make_run_events("run1", seed=1))
    db = open_database(path, StepClock())
    drain(db, spool_dir)
    count = run_query(db, "trials", {"run_id": "run1"}).num_rows
    db.close()
    return path, count


@pytest.mark.parametrize("damage", ["junk", "empty head", "cut", "flip"])
def test_a_damaged_file_is_kept_aside_and_its_rows_come_back_from_the_spool(
    tmp_path: Path, spool_dir: Path, damage: str
) -> None:
    path, count = filled(tmp_path, spool_dir)
    block = bytearray(path.read_bytes())
    if damage == "junk":
        block = bytearray(b"not a database" * 500)
    elif damage == "empty head":
        block[:4096] = bytes(4096)
    elif damage == "cut":
        block = block[:5000]
    else:
        block[4096:12288] = random.Random(1).randbytes(8192)
    path.write_bytes(block)
    db = open_database(path, StepClock())
    (notice,) = db.notices
    kept = re.search(r"kept as (\S+)", notice)[1]  # type: ignore[index]
    assert (tmp_path / kept).read_bytes() == block and ".corrupt-" in kept
    drain(db, spool_dir)
    assert run_query(db, "trials", {"run_id": "run1"}).num_rows == count > 0
    db.close()


COMMIT_AND_DIE = """
import os, sys
from pathlib import Path
from storage.connection import open_database
from storage.ingest import drain
db = open_database(Path(sys.argv[1]))
drain(db, Path(sys.argv[2]))
os._exit(0)
"""


@pytest.fixture(scope="module")
def killed_hub(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a killed hub leaves it: one run in the database file, another one only in its log."""
    folder = tmp_path_factory.mktemp("killed_hub")
    for number in (1, 2):
        spool_events(folder / "spool", f"run{number}", make_run_events(f"run{number}", seed=number))
        if number == 1:
            db = open_database(folder / "history.duckdb", StepClock())
            drain(db, folder / "spool")
            db.close()
    subprocess.run([sys.executable, "-c", COMMIT_AND_DIE, folder / "history.duckdb", folder / "spool"], check=True)
    return folder


@pytest.mark.parametrize("seed", range(8))
def test_a_flipped_bit_or_a_cut_in_file_or_log_costs_nothing_that_the_spool_has(
    tmp_path: Path, killed_hub: Path, seed: int
) -> None:
    rng = random.Random(seed)
    folder = tmp_path / "copy"
    shutil.copytree(killed_hub, folder)
    victim = folder / ("history.duckdb", "history.duckdb.wal")[seed % 2]
    block = bytearray(victim.read_bytes())
    at = rng.randrange(len(block))
    if seed < 6:
        block[at] ^= 1 << rng.randrange(8)
    else:
        del block[at:]
    victim.write_bytes(block)
    db = open_database(folder / "history.duckdb", StepClock())
    assert drain(db, folder / "spool")[-1].error is None
    for number in (1, 2):
        told = [e["kind"] for e in make_run_events(f"run{number}", seed=number) if e["kind"] != "heartbeat"]
        found = run_query(db, "events", {"run_id": f"run{number}", "limit": 5000})
        assert found.column("kind").to_pylist() == told
    db.close()


@pytest.mark.parametrize("inside_transaction", [True, False])
def test_damage_that_shows_only_at_work_is_healed_without_a_restart(
    tmp_path: Path, killed_hub: Path, inside_transaction: bool
) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(killed_hub, folder)
    path = folder / "history.duckdb"
    open_database(path, StepClock()).close()
    db = open_database(path, StepClock())
    db.note_failure(duckdb.InvalidInputException("somebody's checksum is not a valid corrupt name"))
    assert run_query(db, "runs").num_rows == 2 and db.notices == []
    block = "computed checksum 12 does not match stored checksum 34 in block at location 4096"
    if not inside_transaction:
        db.note_failure(duckdb.IOException(f"Corrupt database file: {block}"))
    else:
        with pytest.raises(DatabaseUnavailable, match="Corrupt"), db.transaction():
            raise duckdb.IOException(f"Corrupt database file: {block}")
    assert run_query(db, "runs").num_rows == 0
    assert len(db.notices) == 1 and ".corrupt-" in db.notices[0]
    drain(db, folder / "spool")
    assert run_query(db, "runs").num_rows == 2
    db.close()


def test_a_file_of_a_newer_version_is_refused_and_untouched(tmp_path: Path) -> None:
    path = tmp_path / "h.duckdb"
    db = open_database(path, StepClock())
    with db.transaction() as cursor:
        cursor.execute("insert into schema_migrations values (?, 'from_the_future', 0)", [len(MIGRATIONS) + 1])
    db.close()
    before = path.read_bytes()
    with pytest.raises(SchemaTooNew, match="update the project"):
        open_database(path, StepClock())
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["h.duckdb"]


@pytest.mark.parametrize("version", range(1, len(MIGRATIONS)))
def test_every_older_schema_is_brought_up_to_date_with_its_rows_and_a_copy(tmp_path: Path, version: int) -> None:
    path = tmp_path / "h.duckdb"
    old = Database(path, StepClock())
    migrate(old, 1.0, MIGRATIONS[:version])
    with old.transaction() as cursor:
        cursor.execute("insert into submissions values ('kept', 'run1', 5)")
    old.close()
    new = open_database(path, StepClock())
    assert schema_version(new.cursor()) == len(MIGRATIONS)
    assert new.cursor().execute("select * from submissions").fetchall() == [("kept", "run1", 5.0)]
    fresh = open_database(tmp_path / "fresh.duckdb", StepClock())
    assert columns_of(new) == columns_of(fresh)
    assert (tmp_path / f"h.duckdb.before-schema-{version + 1}").exists()
    new.close(), fresh.close()


def test_a_migration_that_fails_leaves_the_schema_before_it(tmp_path: Path) -> None:
    def half(cursor: duckdb.DuckDBPyConnection) -> None:
        cursor.execute("create table half_made (a integer)")
        cursor.execute("select * from no_such_table")

    db = open_database(tmp_path / "h.duckdb", StepClock())
    with pytest.raises(DatabaseUnavailable):
        migrate(db, 2.0, (*MIGRATIONS, half))
    assert schema_version(db.cursor()) == len(MIGRATIONS)
    with pytest.raises(duckdb.CatalogException):
        db.cursor().execute("select * from half_made")
    db.close()


def columns_of(db: Database) -> list[tuple[str, str, str]]:
    rows = db.cursor().execute("select table_name, column_name, data_type from duckdb_columns() where not internal")
    return sorted(rows.fetchall())


def test_a_folder_that_cannot_be_made_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DatabaseUnavailable, match="cannot be made.*HYBRID_DATA_DIR"):
        open_database(tmp_path / "file" / "h.duckdb")
    (tmp_path / "folder.duckdb").mkdir()
    with pytest.raises(DatabaseUnavailable, match="it is not a file"):
        open_database(tmp_path / "folder.duckdb")
    assert (tmp_path / "folder.duckdb").is_dir()


def test_every_query_answers_while_no_checkpoint_has_room(db: Database, monkeypatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10, 10, 0))
    assert "free space" in str(db.checkpoint())
    for name, query in NAMED.items():
        run_query(db, name, {key: "x" if p.kind is str else 1 for key, p in query.parameters.items()})


FULL_AT_START = """
import resource, sys
from pathlib import Path
from storage.connection import DatabaseUnavailable, open_database
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[2]), resource.RLIM_INFINITY))
try:
    open_database(Path(sys.argv[1])).close()
except DatabaseUnavailable as error:
    print(error)
"""


@pytest.mark.parametrize("limit_bytes", [0, 5_000])
def test_a_disk_that_is_full_at_the_first_start_is_not_taken_for_damage(tmp_path: Path, limit_bytes: int) -> None:
    path = tmp_path / "h.duckdb"
    done = subprocess.run(
        [sys.executable, "-c", FULL_AT_START, path, str(limit_bytes)], capture_output=True, text=True, check=True
    )
    assert "too large" in done.stdout.lower() or "could not write" in done.stdout.lower(), done.stdout + done.stderr
    assert not list(tmp_path.glob("*corrupt*"))
    db = open_database(path, StepClock())
    assert schema_version(db.cursor()) == len(MIGRATIONS)
    db.close()

"""The one open DuckDB file: who may open it, how it is hardened, and what happens when it is damaged.

DuckDB lets one process write, and while it does no other process can even read, so exactly one `Database` exists (in
the hub). Writes are serialised by a lock, because appending transactions never conflict but updates do; each thread
reads through a cursor of its own, because a busy DuckDB connection refuses a second caller instead of waiting. The
file is a view that can be made again from the spool files: a damaged one is moved aside, said so, and filled anew.
"""

from __future__ import annotations

import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import duckdb

from hybrid_core.errors import HubUnavailable, HybridError
from storage.migrations import SchemaTooNew, migrate

# One thread: measurements run beside the hub, and a leaderboard over a million rows needs 35 ms on two.
SETTINGS = (
    "set threads = 1",
    "set memory_limit = '1GB'",
    "set checkpoint_threshold = '16MB'",
    "set enable_external_access = false",
    "set lock_configuration = true",
)
CONNECT_CONFIG = {
    "autoinstall_known_extensions": False,
    "autoload_known_extensions": False,
    "allow_community_extensions": False,
    "python_enable_replacements": False,
}
# A checkpoint that runs out of space invalidates the whole open database (DuckDB 2.0.0), so ask for room first.
CHECKPOINT_ROOM = 3
_DAMAGE = "corrupt|checksum|not a valid|could not read enough bytes"
# Narrow on purpose: an error that merely quotes somebody's text must never send the file aside.
_DAMAGED_BLOCK = (
    r"computed checksum \d+ does not match stored checksum \d+ in block at location \d+"
    r"|Could not read enough bytes from file"
)
_SYSTEM_REFUSALS = (
    "newer version|older version|no space left|permission denied|read-only|too many open|could not write|too large"
)


class DatabaseUnavailable(HubUnavailable):
    """The database file cannot be opened or written now; the message says why and what to do."""


class DatabaseLocked(DatabaseUnavailable):
    """Another process holds the file; the message names it."""


class Database:
    """The open database file of one process.

    Attributes:
        path: the file.
        notices: sentences for a banner: what was found damaged and what was done about it.
    """

    def __init__(self, path: Path, clock: Callable[[], float] = time.time) -> None:
        """Open or create the file; `open_database` also brings the schema up to date."""
        self.path = Path(path)
        self.notices: list[str] = []
        self.write_lock = threading.RLock()
        self._clock = clock
        self._local = threading.local()
        self._generation = 0
        self._broken = False
        self._damage: duckdb.Error | None = None
        self._closed = False
        self._connection = _connect(self.path)

    def cursor(self) -> duckdb.DuckDBPyConnection:
        """The cursor of the calling thread; opens the file again if a fatal error had closed it."""
        if self._closed:
            raise DatabaseUnavailable(f"{self.path} is closed; start the hub again")
        if self._broken:
            self._reopen()
        if getattr(self._local, "generation", None) != self._generation:
            self._local.cursor = self._connection.cursor()
            self._local.generation = self._generation
        cursor: duckdb.DuckDBPyConnection = self._local.cursor
        return cursor

    @contextmanager
    def transaction(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """All or nothing: commits at the end, rolls back on any exception; one writer at a time.

        Raises:
            DatabaseUnavailable: DuckDB could not write (disk full, say); nothing of the transaction was kept.
        """
        with self.write_lock:
            cursor = self.cursor()
            try:
                cursor.execute("begin transaction")
                yield cursor
                cursor.execute("commit")
            except duckdb.Error as error:
                self._undo(cursor)
                self.note_failure(error)
                raise DatabaseUnavailable(f"{self.path} could not be written: {first_line(error)}") from error
            except BaseException:
                self._undo(cursor)
                raise

    def now(self) -> float:
        """UTC epoch seconds by the clock this database was opened with."""
        return self._clock()

    def note_failure(self, error: duckdb.Error) -> None:
        """Remember an error after which this open file is of no use, so that the next caller opens it again.

        Damage that shows only now (an index block, say) sends the file aside, as `open_database` does at start.
        """
        text = str(error)
        if re.search(_DAMAGED_BLOCK, text):
            self._damage = error
        if self._damage or isinstance(error, duckdb.FatalException) or "database has been invalidated" in text:
            self._broken = True

    def checkpoint(self) -> str | None:
        """Move the write-ahead log into the file; returns why not when there is no room for it or DuckDB refuses."""
        with self.write_lock:
            size = _size(self.path) + _size(_wal(self.path))
            free = shutil.disk_usage(self.path.parent).free
            if free < CHECKPOINT_ROOM * size:
                return (
                    f"{free} bytes are free beside {self.path}, a checkpoint wants {CHECKPOINT_ROOM * size}; free space"
                )
            try:
                self.cursor().execute("checkpoint")
            except duckdb.Error as error:
                self.note_failure(error)
                return f"{self.path} could not be checkpointed: {first_line(error)}"
            return None

    def close(self) -> str | None:
        """Checkpoint and close; returns why the checkpoint was left out, if it was. Twice is harmless."""
        with self.write_lock:
            if self._closed:
                return None
            reason = self.checkpoint()
            self._closed = True
            self._connection.close()
            return reason

    def _undo(self, cursor: duckdb.DuckDBPyConnection) -> None:
        try:
            cursor.execute("rollback")
        except duckdb.Error as error:  # a failed commit has already rolled back
            self.note_failure(error)

    def _reopen(self) -> None:
        with self.write_lock:
            if not self._broken:
                return
            damage, self._damage = self._damage, None
            self._connection.close()
            if damage is not None:
                self.notices += _move_aside([self.path, _wal(self.path)], self.now(), damage)
            try:
                self._connection = _connect(self.path)
            except duckdb.Error as error:
                raise DatabaseUnavailable(f"{self.path} cannot be opened again: {first_line(error)}") from error
            self._generation += 1
            self._broken = False
            if damage is not None:
                migrate(self, self.now())


def open_database(path: Path, clock: Callable[[], float] = time.time) -> Database:
    """Open the file for this process, newest schema, creating it and its folder if absent.

    A damaged write-ahead log, then a damaged file, is moved to `.corrupt-<time>` and `notices` says so; whatever is
    missing then comes back with the next ticks of `ingest.ingest_once`, because the offsets went with the rows.

    Raises:
        DatabaseLocked: another process has the file open.
        DatabaseUnavailable: the folder or file cannot be read or written.
        SchemaTooNew: a newer version of the project wrote it.
    """
    path = Path(path)
    notices: list[str] = []
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise DatabaseUnavailable(f"{path.parent} cannot be made: {error.strerror}; set HYBRID_DATA_DIR") from error
    if path.exists() and not path.is_file():
        raise DatabaseUnavailable(f"{path} cannot be opened: it is not a file; move it or set HYBRID_DATA_DIR")
    # The log goes first, alone, where it may be the culprit; then both; a file just made new must open.
    steps = [[_wal(path)], [path, _wal(path)], []]
    while True:
        try:
            return _open_and_migrate(path, clock, notices)
        except duckdb.Error as error:
            _refuse_if_not_damaged(path, error)
            if re.search(_DAMAGED_BLOCK + "|not a valid DuckDB", str(error)) and len(steps) == 3:
                steps.pop(0)
            victims = steps.pop(0)
            if not victims:
                raise DatabaseUnavailable(f"{path} cannot be opened: {first_line(error)}") from error
            notices += _move_aside(victims, clock(), error)


def first_line(error: Exception) -> str:
    """The first line of DuckDB's message, which is the sentence; the rest quotes SQL."""
    return str(error).split("\n", 1)[0]


def _open_and_migrate(path: Path, clock: Callable[[], float], notices: list[str]) -> Database:
    db = Database(path, clock)
    try:
        migrate(db, clock())
        _read_everything(db.cursor())
    except HybridError as error:
        db.close()
        if isinstance(error, SchemaTooNew) or not isinstance(error.__cause__, duckdb.Error):
            raise
        raise error.__cause__ from error
    except duckdb.Error:
        db.close()
        raise
    path.chmod(0o600)
    db.notices = notices
    return db


def _read_everything(cursor: duckdb.DuckDBPyConnection) -> None:
    """Make DuckDB verify the checksum of every block: opening alone reads a few, and a damaged rest fails later."""
    for (table,) in cursor.execute("select table_name from duckdb_tables() where not internal").fetchall():
        cursor.execute('select bit_xor(hash(t)) from "' + table + '" t').fetchall()


def _connect(path: Path) -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(str(path), config=dict(CONNECT_CONFIG))
    for statement in SETTINGS:
        connection.execute(statement)
    return connection


def _refuse_if_not_damaged(path: Path, error: duckdb.Error) -> None:
    text = str(error).replace(str(path), "")
    if "Could not set lock" in text or "different configuration" in text:
        holder = re.search(r"held in (?P<program>.*) \(PID (?P<pid>\d+)\)", text)
        who = f"process {holder['pid']} ({holder['program']})" if holder else "another process"
        message = f"{path} is open in {who}; use that hub, or end it and start again"
        raise DatabaseLocked(message) from error
    if re.search(_DAMAGE, text, re.IGNORECASE):
        return
    # A failed commit by itself is no damage, and neither is what the system refuses.
    if isinstance(error, duckdb.TransactionException) or re.search(_SYSTEM_REFUSALS, text, re.IGNORECASE):
        raise DatabaseUnavailable(f"{path} cannot be opened: {first_line(error)}") from error


def _move_aside(victims: list[Path], now: float, error: duckdb.Error) -> list[str]:
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now))
    notices = []
    for victim in victims:
        if victim.exists():
            kept = _free_name(victim.with_name(f"{victim.name}.corrupt-{stamp}"))
            victim.rename(kept)
            notices.append(
                f"{victim.name} was damaged ({first_line(error):.160}); it is kept as {kept.name} and what it held "
                "is read again from the spool files that are kept"
            )
    return notices


def _free_name(path: Path) -> Path:
    names = [path, *(path.with_name(f"{path.name}-{n}") for n in range(1, 1000))]
    return next(name for name in names if not name.exists())


def _wal(path: Path) -> Path:
    return path.with_name(path.name + ".wal")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0

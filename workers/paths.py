"""Where everything of one installation lives on disk, and how the data folder is made safe to use.

One folder holds the database, the spool, the logs, the caches and the hub's socket, so that a backup is one copy and
a test is one environment variable. It is private (0700): a cache folder somebody else may write to is code somebody
else may run. `HYBRID_DATA_DIR` names it, else it follows the XDG base directory rule.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from hybrid_core.errors import InvalidInput

FOLDER_NAME = "hybrid-optimization"
# The kernel's limit for a unix socket path is 108 bytes with the closing zero on Linux and 104 on macOS.
SOCKET_PATH_LIMIT_BYTES = 100
PROJECT_ROOT = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class DataPaths:
    """The names inside one data folder; nothing is created before `prepare`."""

    root: Path

    @property
    def lock(self) -> Path:
        """Held by `flock` for the whole life of a hub."""
        return self.root / "hub.lock"

    @property
    def alive(self) -> Path:
        """Touched by the hub; run processes without a hub watch its age."""
        return self.root / "hub.alive"

    @property
    def stopped(self) -> Path:
        """Present after a person asked the hub to stop; tells waiting clients not to start it again by themselves."""
        return self.root / "hub.stopped"

    @property
    def database(self) -> Path:
        """The DuckDB file; only the hub opens it."""
        return self.root / "history.duckdb"

    @property
    def spool(self) -> Path:
        """One file of JSON lines per process attempt."""
        return self.root / "spool"

    @property
    def runs(self) -> Path:
        """One folder per run with the orders its processes were started with."""
        return self.root / "runs"

    @property
    def logs(self) -> Path:
        """Output of hub, run and measure processes."""
        return self.root / "logs"

    @property
    def cache(self) -> Path:
        """Compiler caches and scratch folders, one per run, deleted with it."""
        return self.root / "cache"

    @property
    def hub_log(self) -> Path:
        """What the hub writes to standard output and error."""
        return self.logs / "hub.log"

    @property
    def allowed_packages(self) -> Path:
        """The packages whose code may be imported as models, one a line; written by hand, never by a program."""
        return self.root / "allowed_packages.txt"

    @property
    def socket(self) -> Path:
        """The hub's socket; a folder with a long name gets a short, private place in the temporary folder."""
        direct = self.root / "hub.sock"
        if len(os.fsencode(direct)) <= SOCKET_PATH_LIMIT_BYTES:
            return direct
        key = hashlib.sha256(os.fsencode(self.root)).hexdigest()[:16]
        short = Path(tempfile.gettempdir()) / f"hybrid-{os.getuid()}-{key}" / "hub.sock"
        return short if len(os.fsencode(short)) <= SOCKET_PATH_LIMIT_BYTES else Path("/tmp", *short.parts[-2:])

    def prepare(self) -> DataPaths:
        """Create what is missing and prove that it can be written to.

        Raises:
            InvalidInput: the folder cannot be created, is not a folder, or refuses a file.
        """
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
            self.root.chmod(0o700)
            for folder in (self.spool, self.runs, self.logs, self.cache):
                folder.mkdir(exist_ok=True, mode=0o700)
            with tempfile.TemporaryFile(dir=self.root):
                pass
        except OSError as error:
            raise InvalidInput(
                f"the data folder {self.root} cannot be used ({error.strerror or error}); "
                "set HYBRID_DATA_DIR to a folder you may write to"
            ) from error
        if self.socket.parent != self.root:
            make_private_folder(self.socket.parent)
        return self


def data_paths(environment: Mapping[str, str] | None = None) -> DataPaths:
    """The data folder that HYBRID_DATA_DIR or the XDG rule names, as an absolute path."""
    environment = os.environ if environment is None else environment
    named = environment.get("HYBRID_DATA_DIR", "").strip()
    if named:
        return DataPaths(Path(named).expanduser().absolute())
    data_home = environment.get("XDG_DATA_HOME", "").strip()
    # The XDG rule: a relative XDG_DATA_HOME is invalid and ignored.
    base = Path(data_home) if data_home.startswith("/") else Path("~/.local/share").expanduser()
    return DataPaths((base / FOLDER_NAME).absolute())


def make_private_folder(folder: Path) -> Path:
    """Create a folder that only this user can enter, or refuse one that somebody prepared.

    Raises:
        InvalidInput: it is a symbolic link, no folder, or belongs to another user.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        facts = folder.lstat()
        if stat.S_ISDIR(facts.st_mode) and facts.st_uid == os.getuid():
            folder.chmod(0o700)
            return folder
    except OSError as error:
        raise InvalidInput(f"the folder {folder} cannot be used ({error.strerror or error}); remove it") from error
    raise InvalidInput(f"the folder {folder} is a link or belongs to another user; remove it and start again")

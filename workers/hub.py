"""`python -m workers.hub`: the one long-lived process of a data folder.

The lock comes first and the imports after it: of twenty simultaneous starters nineteen leave within milliseconds,
politely, with exit code 3. The kernel frees the lock however the holder ends, so there is no stale file to clean up.
"""

from __future__ import annotations

import fcntl
import logging
import os
import sys
from collections.abc import Callable
from typing import IO, TYPE_CHECKING

from hybrid_core.errors import HybridError, InvalidInput
from workers.client import EXIT_ALREADY_RUNNING, EXIT_INVALID
from workers.paths import DataPaths, data_paths

if TYPE_CHECKING:
    from workers.supervisor import Programs

log = logging.getLogger("hub")


def main(programs: Callable[[], Programs] | None = None) -> int:
    """Run the hub of the data folder until it is stopped; the exit code of the process.

    `programs` names what to start instead of the real processes; called once the lock is held.
    """
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(name)s %(levelname)s %(message)s")
    try:
        paths = data_paths().prepare()
    except InvalidInput as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_INVALID
    lock = take_lock(paths)
    if lock is None:
        sys.stderr.write(f"another hub already works on {paths.root}\n")
        return EXIT_ALREADY_RUNNING
    with lock:
        return _serve(paths, programs)


def take_lock(paths: DataPaths) -> IO[str] | None:
    """The open, locked file, or None while another process holds it."""
    file = paths.lock.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    file.truncate(0)
    file.write(f"{os.getpid()}\n")  # for people who look; nothing reads it
    file.flush()
    return file


def _serve(paths: DataPaths, programs: Callable[[], Programs] | None) -> int:
    from workers.hub_service import HubService
    from workers.supervisor import Programs

    try:
        service = HubService(paths, (programs or Programs)())
    except (HybridError, OSError) as error:
        sys.stderr.write(f"{error}\n")
        return EXIT_INVALID
    return service.run()


if __name__ == "__main__":
    exit_code = main()
    logging.shutdown()
    # Threads that still answer hold database cursors, which the interpreter's own way out would report as leaks.
    os._exit(exit_code)

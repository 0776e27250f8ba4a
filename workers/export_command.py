"""`python -m workers export <run> <folder>`: the winner of a run as a folder to take home."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

from hybrid_core.errors import HubUnavailable
from workers.client import Client
from workers.exporting import Ended, Exporting
from workers.paths import data_paths

EXIT_REFUSED, EXIT_INTERRUPTED = 1, 130
POLL_S = 0.25


def add_commands(commands: Any) -> None:
    """`export` among the commands of a parser."""
    export = commands.add_parser("export", help="write the winner of a run as a folder to take home")
    export.add_argument("run", help="a run's id")
    export.add_argument("folder", help="a folder that does not exist yet")
    text = "let the model be what a function of an installed package returns, which imports that package"
    export.add_argument("--allow-code", action="store_true", help=text)
    export.set_defaults(act=export_run)


def export_run(options: argparse.Namespace) -> int:
    """Have the folder written, show how far it is, say what it holds or why there is none."""
    client = Client(data_paths())
    if not client.is_reachable():
        raise HubUnavailable(f"no hub serves {client.paths.root}; start it with `python -m workers hub`")
    recipe = json.loads(client.handover(options.run)["recipe_json"])
    folder = Path(options.folder).expanduser().absolute()
    request = {
        "recipe": recipe, "folder": str(folder), "zip": "", "max_zip_bytes": 0, "allow_code": options.allow_code,
    }  # fmt: skip
    threads = recipe["run"].get("threads") or 1
    with tempfile.TemporaryDirectory(prefix="hybrid-export-") as scratch:
        work = Exporting(request, Path(scratch) / "work", threads=threads)
        try:
            ended = follow(work, sys.stderr)
        except KeyboardInterrupt:
            work.cancel()
            sys.stderr.write("\nthe export was cancelled; nothing was written\n")
            return EXIT_INTERRUPTED
    if ended.reason:
        sys.stderr.write(f"{ended.reason}\n")
        return EXIT_REFUSED
    sys.stdout.write(f"{folder} holds {ended.bytes:,} bytes; check it with\npython {folder / 'verify.py'}\n")
    return 0


def follow(work: Exporting, stream: IO[str], sleep: Callable[[float], None] = time.sleep) -> Ended:
    """One line per phase until it is over."""
    shown = ""
    while True:
        phase, ended = work.phase, work.poll()
        if phase != shown and ended is None:
            shown = phase
            stream.write(f"{phase}\n")
            stream.flush()
        if ended is not None:
            return ended
        sleep(POLL_S)

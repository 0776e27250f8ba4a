"""The command about combinations that failed together: list them with their evidence, or let one be tried again."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from workers.client import ensure_hub


def add_commands(commands: Any) -> None:
    """`conflicts` among the commands of a parser."""
    conflicts = commands.add_parser("conflicts", help="combinations that failed together and are not tried again")
    conflicts.add_argument("--forget", metavar="ID", default="", help="let this one be tried again")
    conflicts.set_defaults(act=show_or_forget)


def show_or_forget(options: argparse.Namespace) -> int:
    """One conflict per paragraph: its id, recipe, where it holds, why, and where its parts worked."""
    client = ensure_hub()
    if options.forget:
        sys.stdout.write(client.forget_conflict(options.forget) + "\n")
        return 0
    rows = client.query("conflicts")
    for row in rows:
        sys.stdout.write(
            f"{row['conflict_id']}  {row['recipe_key']}\n"
            f"  {row['family']} models on {row['device']}: {row['outcome']} in run {row['run_id']}: {row['reason']}\n"
            f"  alone: {row['evidence']}\n  holds for {row['versions']}\n"
        )
    if not rows:
        sys.stdout.write("No combination is known to fail whose settings work alone.\n")
    return 0

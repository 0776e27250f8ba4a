"""Whether a model may be Python code of the user's own, and of which packages.

Importing a module runs it, so this is off unless two things were done at the machine itself: the hub was started with
`--allow-code`, and the package stands in `allowed_packages.txt` of the data folder. No request and no page can change
either. The flag travels to the hub as an environment variable, so that a dashboard which was started with it brings a
dead hub back as it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from workers.paths import DataPaths

ALLOW_CODE_VARIABLE = "HYBRID_ALLOW_CODE"
CODE_KIND = "factory"


def allow_code_in_children() -> None:
    """Let the hub that this process starts accept code."""
    os.environ[ALLOW_CODE_VARIABLE] = "1"


class CodePolicy:
    """What one hub allows: the flag as it was at its start, the list as it is now."""

    def __init__(self, paths: DataPaths, environment: Mapping[str, str] | None = None) -> None:
        self.is_on = (os.environ if environment is None else environment).get(ALLOW_CODE_VARIABLE) == "1"
        self._list: Path = paths.allowed_packages

    def packages(self) -> list[str]:
        """The packages of the list; empty without the flag."""
        if not self.is_on:
            return []
        try:
            lines = self._list.read_text(errors="replace").splitlines()
        except OSError:
            return []
        return sorted({name for line in lines if (name := line.partition("#")[0].strip())})

    def refusal(self, kind: str, path: str) -> str | None:
        """Why a model of this kind and path may not be imported; None where it may, or where nothing is imported."""
        if kind != CODE_KIND:
            return None
        package = path.partition(":")[0].partition(".")[0]
        if not self.is_on:
            return (
                f"{path!r:.120} is Python code and importing it is off; stop the hub, start it with --allow-code "
                f"and write {package!r:.60} on a line of {self._list}"
            )
        if package not in self.packages():
            return f"package {package!r:.60} is not listed; write it on a line of {self._list} and bring it in again"
        return None

    def refusal_of_source(self, source: str) -> str | None:
        """The same for a model that was brought in earlier, by its registration."""
        if not source:
            return None
        facts = json.loads(source)
        return self.refusal(str(facts.get("kind")), str(facts.get("path")))

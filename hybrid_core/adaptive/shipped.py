"""What the project measured on its own models, for a search that has nothing of its own to go by yet.

The first run on a new machine knows no earlier run. What other models gained on another processor of the same
instruction set is no promise, but a far better order to try things in than any claim: see docs/search_bakeoff.md. The
rows are those of the checked-in benchmarks (`benchmarks/shipped_history.py` writes the files); they are never shown as
results and never recommended, and they give way to what is measured here. Standard library only.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path

from hybrid_core.adaptive.history import HistoryRow
from hybrid_core.records import Estimate

FOLDER = Path(__file__).parent / "shipped"


def shipped_history(capability: str, device: str = "cpu") -> tuple[HistoryRow, ...]:
    """Rows from processors of this instruction set ("AVX2", "AVX512"); none for others, nor for a GPU."""
    path = FOLDER / f"{capability.lower()}.json"
    if device != "cpu" or not path.is_file():
        return ()
    return tuple(_rows(path))


def _rows(path: Path) -> Iterator[HistoryRow]:
    for subject in json.loads(path.read_text())["subjects"]:
        names = {name: str(subject[name]) for name in ("model", "size", "family", "workload")}
        for recipe, outcome, *ratios in subject["rows"]:
            speed, memory, accuracy = (_estimate(ratio) for ratio in ratios)
            yield HistoryRow(
                recipe_key=recipe,
                device="cpu",
                outcome=outcome,
                speed=speed,
                memory=memory,
                accuracy=accuracy,
                is_shipped=True,
                **names,
            )


def _estimate(ends: Sequence[float | None]) -> Estimate:
    return Estimate(*(math.nan if end is None else end for end in ends))

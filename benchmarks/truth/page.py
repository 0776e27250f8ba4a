"""Writes the tables into docs/truth.md, between the marks that carry their names; the words around them stay.

A place names the instruction set and the table, as in `avx2_noise`: each results file fills its own places.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.truth.book import ROOT
from benchmarks.truth.tables import NOT_MEASURED, all_tables

RESULTS = ROOT / "benchmarks" / "results"
PAGE = ROOT / "docs" / "truth.md"
PLACE = re.compile(r"(<!-- truth: (\w+) -->\n).*?(<!-- /truth -->)", re.DOTALL)


def refresh(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Fill every place of the page from the results files."""
    tables: dict[str, str] = {}
    for file in sorted(results.glob("truth-*.json")):
        capability = file.stem.split("-", 1)[1]
        found = all_tables(json.loads(file.read_text()))
        tables |= {f"{capability}_{name}": text for name, text in found.items()}
    page.write_text(filled(page.read_text(), tables))


def filled(text: str, tables: Mapping[str, str]) -> str:
    r"""The text with each place filled; a place without a table is an error, and so is a filled table without a place.

    >>> filled("a\n<!-- truth: x -->\nold\n<!-- /truth -->\nb", {"x": "new"})
    'a\n<!-- truth: x -->\nnew\n<!-- /truth -->\nb'
    """
    places = {match[1] for match in PLACE.findall(text)}
    needed = {name for name, told in tables.items() if told.replace(NOT_MEASURED, "").strip()}
    if not needed <= places <= set(tables):
        raise ValueError(
            f"the page has the places {sorted(places)}, the filled tables are {sorted(needed)}; make them equal"
        )
    return PLACE.sub(lambda match: match[1] + tables[match[2]] + "\n" + match[3], text)

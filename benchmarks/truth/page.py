"""Writes the tables into docs/truth.md, between the marks that carry their names; the words around them stay."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

from benchmarks.truth.book import RESULTS, ROOT
from benchmarks.truth.tables import all_tables

PAGE = ROOT / "docs" / "truth.md"
PLACE = re.compile(r"(<!-- truth: (\w+) -->\n).*?(<!-- /truth -->)", re.DOTALL)


def refresh(page: Path = PAGE, results: Path = RESULTS) -> None:
    """Fill every place of the page from the results file."""
    page.write_text(filled(page.read_text(), all_tables(json.loads(results.read_text()))))


def filled(text: str, tables: Mapping[str, str]) -> str:
    r"""The text with each place filled; a table without a place, or a place without a table, is an error.

    >>> filled("a\n<!-- truth: x -->\nold\n<!-- /truth -->\nb", {"x": "new"})
    'a\n<!-- truth: x -->\nnew\n<!-- /truth -->\nb'
    """
    places = {match[1] for match in PLACE.findall(text)}
    if places != set(tables):
        raise ValueError(f"the page has the places {sorted(places)}, the tables are {sorted(tables)}; make them equal")
    return PLACE.sub(lambda match: match[1] + tables[match[2]] + "\n" + match[3], text)

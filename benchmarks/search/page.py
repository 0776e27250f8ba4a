"""Writes the tables of docs/search_bakeoff.md between their marks, and the curves; the words around them stay."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.search import curves
from benchmarks.search.episodes import MODES
from benchmarks.search.tables import all_tables

__all__ = ["PAGE", "RESULTS", "all_tables", "filled", "refresh"]

ROOT = Path(__file__).resolve().parents[2]
PAGE, RESULTS = ROOT / "docs" / "search_bakeoff.md", ROOT / "benchmarks" / "results" / "search.json"
IMAGES = ROOT / "docs" / "images"
PLACE = re.compile(r"(<!-- search: (\w+) -->\n).*?(<!-- /search -->)", re.DOTALL)


def refresh(page: Path = PAGE, results: Path = RESULTS, images: Path = IMAGES) -> None:
    """Fill every place of the page and draw the curves from the results file."""
    found: dict[str, Any] = json.loads(results.read_text())
    page.write_text(filled(page.read_text(), all_tables(found)))
    for mode in MODES:
        if (drawing := curves.drawn(found["rows"], mode)) is not None:
            (images / f"search_{mode}.svg").write_text(drawing)


def filled(text: str, tables: Mapping[str, str]) -> str:
    r"""The text with each place filled; a table without a place, or a place without a table, is an error.

    >>> filled("a\n<!-- search: x -->\nold\n<!-- /search -->\nb", {"x": "new"})
    'a\n<!-- search: x -->\nnew\n<!-- /search -->\nb'
    """
    places = {match[1] for match in PLACE.findall(text)}
    if places != set(tables):
        raise ValueError(f"the page has the places {sorted(places)}, the tables are {sorted(tables)}; make them equal")
    return PLACE.sub(lambda match: match[1] + tables[match[2]] + "\n" + match[3], text)

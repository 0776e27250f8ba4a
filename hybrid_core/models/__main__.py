"""Prints the table of the registry: `python -m hybrid_core.models [--json]`.

Parameters are counted, not quoted: the full size is really built, on the meta device. Quality is what was measured on
the shipped weights, with its interval, beside the best answer that ignores the input.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from typing import Any

from tqdm import tqdm

from hybrid_core.models.base import ModelEntry
from hybrid_core.models.registry import ENTRIES


def describe_entry(entry: ModelEntry) -> dict[str, Any]:
    """One row: names, counted parameters by size, the published count, and the quality of the trained size."""
    counted = {size: count_parameters(entry, size) for size in entry.sizes}
    facts = {size: entry.facts(size) for size in entry.sizes}
    full = facts.get("full", {})
    trained = next((size for size in entry.sizes if facts[size]["trained"]), None)
    quality = facts[trained]["quality"] if trained else None
    return {
        "name": entry.name,
        "title": entry.title,
        "sizes": list(entry.sizes),
        "parameters": counted,
        "full_parameters": counted.get("full"),
        "published_parameters": full.get("published_parameters"),
        "trained_size": trained,
        "quality": quality,
        "trivial": quality["trivial"] if quality else None,
    }


def count_parameters(entry: ModelEntry, size: str) -> int:
    """Counted on the skeleton, which takes no memory."""
    return sum(p.numel() for p in entry.skeleton(size).parameters())


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as aligned text, two lines per entry."""
    lines = []
    for row in rows:
        sizes = ", ".join(f"{size} {count:,}" for size, count in row["parameters"].items())
        published = row["published_parameters"]
        lines.append(
            f"{row['name']:<14} {sizes}" + (f" (published {published:,})" if published else " (none published)")
        )
        lines.append(f"{'':<14} {describe_quality(row['quality'])}")
    return "\n".join(lines)


def describe_quality(quality: dict[str, Any] | None) -> str:
    """Value, interval, sample count and the trivial baseline in one line."""
    if quality is None:
        return "no trained size: agreement with the untouched model is measured instead"
    bits = f", {quality['bits_per_byte']:.3f} bits per byte" if "bits_per_byte" in quality else ""
    rates = "".join(f", {name.replace('_', ' ')} {value:.3f}" for name, value in quality.get("rates", {}).items())
    return (
        f"{quality['metric']} {quality['value']:.2%} ({quality['low']:.2%} to {quality['high']:.2%}, "
        f"{quality['samples']} x {quality['unit']}), trivial {quality['trivial']:.2%}{bits}{rates}"
    )


def main(arguments: Sequence[str] | None = None) -> None:
    """Count, then print."""
    parser = argparse.ArgumentParser(prog="python -m hybrid_core.models", description=__doc__)
    parser.add_argument("--json", action="store_true", help="a list of objects instead of a table")
    as_json = parser.parse_args(arguments).json
    rows = [describe_entry(entry) for entry in tqdm(ENTRIES, unit="model", leave=False, disable=None)]
    print(json.dumps(rows, indent=2, allow_nan=False) if as_json else table(rows))


if __name__ == "__main__":
    main()

"""The published table of spellings is the one that the lists of the tests give; other tests prove each row."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
pytest.importorskip("transformers", reason="transformers is in requirements-dev.txt, which 'make test' installs")


def _script():
    spec = importlib.util.spec_from_file_location("attention_coverage", ROOT / "benchmarks" / "attention_coverage.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["attention_coverage"] = module
    spec.loader.exec_module(module)
    return module


script = _script()


def published():
    rows = [line.strip("| ").split(" | ") for line in script.PAGE.read_text().splitlines() if line.startswith("| ")]
    return {(row[0], row[1]): row[2].strip() for row in rows[2:]}


def test_the_table_has_every_spelling_with_the_verdict_that_the_tests_prove():
    expected = {(entry.name, entry.origin): entry.fused for entry in script.entries()}
    found = published()
    assert found.keys() == expected.keys() and len(found) >= 30
    for key, verdict in found.items():
        assert verdict == "fused" if expected[key] else verdict.startswith("refused: "), (key, verdict)


@pytest.mark.parametrize(
    "key",
    [
        ("FusedQkv", "exported program (.pt2)"), ("Returned", "exported program (.pt2)"),
        ("BmmWithViews", "exported program (.pt2)"), ("SoftCap", "hand-written"),
        ("weights that are used", "nn.MultiheadAttention"),
    ],
)  # fmt: skip
def test_a_row_is_what_comes_out_today(key):
    (entry,) = [entry for entry in script.entries() if (entry.name, entry.origin) == key]
    assert script.verdict(entry) == published()[key]

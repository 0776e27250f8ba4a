"""The page about the Python API is run: every block, in order, in one interpreter."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import pytest

import hybrid_core
from hybrid_core.config import HybridOptimizationConfig
from hybrid_core.universal import UniversalOptimizationConfig

PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"
TEXT = PAGE.read_text(encoding="utf-8")
BLOCKS = [
    (TEXT[: match.start()].count("\n") + 2, match.group(1)) for match in re.finditer(r"```python\n(.*?)```", TEXT, re.S)
]


@pytest.mark.slow
def test_every_block_of_the_page_runs(capsys):
    namespace: dict = {"__name__": "docs"}
    for line, code in BLOCKS:
        # Blank lines in front, so that a traceback names the line of the page.
        exec(compile("\n" * (line - 1) + code, str(PAGE), "exec"), namespace)
    printed = capsys.readouterr().out
    for words in ("selected: ", "pass example_inputs=", "num_candidates=0 is not allowed", "'turbo' is unknown"):
        assert words in printed


def test_the_page_has_blocks_and_shows_every_exported_name():
    assert len(BLOCKS) >= 10
    code = "\n".join(block for _, block in BLOCKS)
    shown_in_text = {
        "CandidateSelector",
        "HybridOptimizationCore",
        "HybridOptimizationStrategy",
        "UniversalModelOptimizer",
    }
    for name in set(hybrid_core.__all__) - shown_in_text:
        assert name in code or f"`{name}`" in TEXT, name


def test_every_configuration_key_is_explained_in_the_table():
    rows = [line for line in TEXT.splitlines() if line.startswith("| `")]
    for field in dataclasses.fields(HybridOptimizationConfig):
        assert any(f"`{field.name}`" in row.split("|")[1] for row in rows), field.name


def test_every_key_of_the_universal_optimizer_is_shown():
    block = next(code for _, code in BLOCKS if "create_universal_optimizer(" in code)
    for field in dataclasses.fields(UniversalOptimizationConfig):
        assert f'"{field.name}"' in block

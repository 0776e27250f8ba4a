"""The page about brought models lists what can really be brought."""

from __future__ import annotations

from pathlib import Path

from hybrid_core.models.brought.families import FAMILIES
from hybrid_core.models.brought.label_files import FORMS

PAGE = (Path(__file__).parents[4] / "docs" / "bring_your_own.md").read_text()


def test_the_page_lists_every_model_type_with_its_classes():
    rows = {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `") and "For" in line}
    rows |= {line.split("`")[1]: line for line in PAGE.splitlines() if line.startswith("| `gpt2`")}
    assert {name for name in rows if not name.startswith(".")} == set(FAMILIES)
    for name, family in FAMILIES.items():
        assert all(f"`{head}`" in rows[name] for head in family.architectures), name


def test_the_page_lists_every_form_of_labels():
    assert all(f"| `{form}` |" in PAGE for form in FORMS)

"""What comes with the project: readable, legal, of known models, and only for the processors it was measured on."""

import pytest

from hybrid_core.adaptive.shipped import FOLDER, shipped_history
from hybrid_core.models.registry import ENTRIES
from hybrid_core.records import Recipe
from hybrid_core.strategies import registry

CAPABILITIES = [path.stem.upper() for path in sorted(FOLDER.glob("*.json"))]


@pytest.mark.parametrize("capability", CAPABILITIES)
def test_every_row_is_of_a_known_model_and_of_settings_that_exist(capability):
    families = {entry.name: entry.family for entry in ENTRIES}
    rows = shipped_history(capability)
    settings = {strategy.name: {s.name for s in strategy.settings} for strategy in registry.STRATEGIES}
    for row in rows:
        steps = Recipe.from_key(row.recipe_key).steps
        assert steps and all(step.setting in settings[step.strategy] for step in steps)
        assert row.family == families[row.model] and row.is_shipped and row.device == "cpu"
        assert row.outcome == "wrong" or 0 < row.speed.low <= row.speed.value <= row.speed.high
    assert len(rows) > 100 and len({row.model for row in rows}) > 5


@pytest.mark.parametrize(("capability", "device"), [("DEFAULT", "cpu"), ("../shipped", "cpu"), ("AVX2", "cuda:0")])
def test_nothing_is_known_of_other_processors(capability, device):
    assert shipped_history(capability, device) == ()

"""Where a search begins, told in one event: what earlier runs found, else what the original document lists."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hybrid_core.adaptive.recommend import DOCUMENT, HISTORY
from hybrid_core.records import Recipe


def starting_points(
    family: str, recommended: Sequence[Recipe], documented: Sequence[Recipe], strategies: Sequence[str]
) -> dict[str, Any] | None:
    """The data of the "starting_points" event; None where the search begins with the singles as they come.

    `documented` holds the first recipes of the `strategies` that the document lists for the family.
    """
    recipes = recommended or documented
    if not recipes:
        return None
    keys = [recipe.key for recipe in recipes]
    if recommended:
        sentence = f"begins with what earlier runs on {family or 'such'} models found good: {', '.join(keys)}"
    else:
        sentence = (
            f"nothing good is known of {family} models yet, so the search begins with the strategies that the original "
            f"document lists for them ({', '.join(strategies)}): {', '.join(keys)}; what it claims of them is measured"
        )
        missing = [name for name in strategies if name not in {recipe.strategies[0] for recipe in documented}]
        if missing:
            sentence += f"; {', '.join(missing)} has no setting that can be tried now at little cost"
    return {"source": HISTORY if recommended else DOCUMENT, "family": family, "keys": keys, "sentence": sentence}

"""Asking settings before trying them: one process says of each whether the model can have it, for the price of one."""

from __future__ import annotations

from hybrid_core.search.bench import Bench
from hybrid_core.search.costs import survey_limit_s
from hybrid_core.search.hints import Survey

# Below this many settings asking first costs as much as trying.
FEWEST_TO_SURVEY = 3


def survey(bench: Bench, ask: Survey) -> None:
    """Ask the open single settings whether the model can have them; those that cannot become trials at once.

    A few settings are tried as quickly as they are asked, and a survey that fails leaves everything to be tried.
    """
    steps = [recipe.steps[0] for recipe in bench.space.singles if bench.is_open(recipe)]
    limit_s = survey_limit_s(bench.config.budget_s, bench.budget.remaining_s)
    if len(steps) < FEWEST_TO_SURVEY or limit_s <= 0:
        return
    bench.tell_progress("search", f"asking {len(steps)} settings whether this model can have them")
    bench.take_answers(lambda: ask(steps, limit_s))

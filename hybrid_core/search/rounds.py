"""What the loop needs of whoever decides what is measured: rounds of recipes, and whether going on still pays."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from hybrid_core.records import Recipe
from hybrid_core.search.result import Stop


@dataclass(frozen=True)
class Round:
    """What one iteration measures; `recipes` may be chosen one by one while it goes on.

    Only rounds of recombination can show that the search has converged; only the opening may be broken off, so that the
    many single settings leave time for the pairs of the good ones.
    """

    recipes: Iterable[Recipe]
    sentence: str
    may_converge: bool = False
    may_pause: bool = False


class Plan(Protocol):
    """Decides what is measured, round after round."""

    def rounds(self) -> Iterator[Round]:
        """The rounds; each is asked for when the one before has been measured."""
        ...

    def settled(self) -> Stop | None:
        """Why another round would not pay; None while it may."""
        ...

    @property
    def recommended(self) -> Sequence[Recipe]:
        """What earlier runs suggested and this one began with."""
        ...

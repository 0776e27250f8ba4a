"""Successive halving over timing repeats: when it pays to time many recipes a little and only the best of them long.

Rung i times n_i = n eta^-i recipes r_i = r eta^i times and keeps the best (Jamieson & Talwalkar 2016; Li et al. 2018).
Repeats save nothing but timing: every recipe still has to be built and compiled once. With compile seconds c and repeat
seconds t the rungs cost n c + t sum n_i r_i, against n (c + R t) for timing everybody R times. Where c is far above
R t, as with compiled models, almost nothing is saved; so this file says what is saved before anything is halved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hybrid_core.errors import InvalidInput

ETA = 3
# Less than this share of the time is not worth a winner that was chosen on fewer repeats.
SMALLEST_SAVING = 0.2


@dataclass(frozen=True)
class Rung:
    """So many `candidates` are timed `repeats` times each, anew."""

    candidates: int
    repeats: int


@dataclass(frozen=True)
class Halving:
    """The rungs, what they cost, and what timing everybody `repeats` times costs."""

    rungs: tuple[Rung, ...]
    seconds: float
    plain_seconds: float

    @property
    def saving(self) -> float:
        """The share of the plain cost that is saved; negative where the rungs cost more."""
        return 1.0 - self.seconds / self.plain_seconds

    @property
    def pays(self) -> bool:
        """Whether enough is saved to halve at all."""
        return self.saving >= SMALLEST_SAVING

    @property
    def sentence(self) -> str:
        """The decision with its figures."""
        figures = f"{max(0.0, self.saving):.0%}: {self.seconds:.0f} s instead of {self.plain_seconds:.0f} s"
        if self.pays:
            return f"halving saves {figures}"
        return f"halving would save {figures}; below {SMALLEST_SAVING:.0%} everybody is timed in full"


def plan_halving(
    candidates: int, repeats: int, compile_s: float, repeat_s: float, restart_s: float = 0.0, eta: int = ETA
) -> Halving:
    """The rungs for `candidates` of which the last ones get `repeats`, and whether they pay.

    `compile_s` is paid once per candidate, `repeat_s` per repeat; `restart_s` once more for everybody who reaches a
    later rung, where its process did not stay alive (0 where it did).

    >>> plan = plan_halving(27, 27, compile_s=1.0, repeat_s=1.0)
    >>> [(rung.candidates, rung.repeats) for rung in plan.rungs], plan.seconds, plan.plain_seconds
    ([(27, 1), (9, 3), (3, 9), (1, 27)], 135.0, 756.0)
    >>> plan_halving(27, 27, compile_s=1000.0, repeat_s=1.0).sentence
    'halving would save 2%: 27108 s instead of 27729 s; below 20% everybody is timed in full'

    Raises:
        InvalidInput: fewer than one candidate or repeat, a negative time, no time at all, or eta below 2.
    """
    _check(candidates, repeats, (compile_s, repeat_s, restart_s), eta)
    rungs = rungs_for(candidates, repeats, eta)
    timed = repeat_s * sum(rung.candidates * rung.repeats for rung in rungs)
    again = restart_s * sum(rung.candidates for rung in rungs[1:])
    return Halving(rungs, candidates * compile_s + timed + again, candidates * (compile_s + repeats * repeat_s))


def rungs_for(candidates: int, repeats: int, eta: int = ETA) -> tuple[Rung, ...]:
    """From all candidates with few repeats down to few candidates with all repeats; one rung where either is small.

    >>> [(rung.candidates, rung.repeats) for rung in rungs_for(10, 12)]
    [(10, 1), (3, 4), (1, 12)]
    """
    steps = 0
    while candidates // eta ** (steps + 1) >= 1 and repeats // eta ** (steps + 1) >= 1:
        steps += 1
    return tuple(Rung(candidates // eta**i, repeats // eta ** (steps - i)) for i in range(steps + 1))


def survivors(scores: Mapping[str, float], rung: Rung) -> list[str]:
    """The keys that reach `rung`: the best finite scores, larger is better; by name where scores are equal."""
    known = [key for key, score in scores.items() if abs(score) < float("inf")]
    return sorted(known, key=lambda key: (-scores[key], key))[: rung.candidates]


def _check(candidates: int, repeats: int, seconds: tuple[float, float, float], eta: int) -> None:
    if candidates < 1 or repeats < 1:
        raise InvalidInput(f"candidates={candidates} and repeats={repeats} are not allowed; give at least 1 of each")
    if eta < 2:
        raise InvalidInput(f"eta={eta} is not allowed; give 2 or more, the share that is kept is 1/eta")
    if not all(0 <= value < float("inf") for value in seconds) or seconds[0] + seconds[1] == 0:
        raise InvalidInput(
            f"compile, repeat and restart seconds {seconds} are not allowed; give finite times, not all 0"
        )

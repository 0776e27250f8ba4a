"""Decides what happens in a generated video before anything is drawn: the record that the label comes from.

Each segment may hold evidence of a highlight in four kinds: something moves fast (motion), a crowd swells (cheer),
words of surprise are said (words), viewers come back shortly after (replay). The one highlight has three of the four,
four other segments have two, the rest one or none. So whoever knows one kind perfectly still has to guess among many,
and decoys look loud or lively without meaning anything: a scrolling picture, a steady tone, calm words with exclamation
marks, a spike in the curve. `best_with_kinds` counts how far knowledge of some kinds can get.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import numpy as np
from numpy.random import Generator

SEGMENTS = 12
KINDS = ("motion", "cheer", "words", "replay")
DECOYS = ("scroll", "tone", "calm_shout", "spike")
DISTRACTORS = 4  # segments with two kinds of evidence
NO_HIGHLIGHT = -1
WEAKEST = 0.4

EXCITED_STARTS = ("what a", "did you see that", "no way that", "oh my that", "unreal", "listen to that", "wow what a")
EXCITED_ENDS = ("save", "goal", "finish", "comeback", "shot", "trick", "catch", "jump")
CALM_STARTS = (
    "here is the",
    "we look at the",
    "what a",
    "did you see the",
    "next comes the",
    "listen to the",
    "so the",
)
CALM_ENDS = ("map", "plan", "menu", "road", "shop", "list", "table", "shot list")


@dataclass(frozen=True)
class Moment:
    """One segment: strength of each kind of evidence (0 = absent), of each decoy, and what is said ("" = nothing)."""

    evidence: dict[str, float]
    decoys: dict[str, float]
    text: str
    cut: bool


@dataclass(frozen=True)
class Script:
    """One video; `highlight` is the index of the planted segment or `NO_HIGHLIGHT`."""

    seed: int
    highlight: int
    moments: tuple[Moment, ...]

    def has(self, kind: str) -> list[bool]:
        """In which segments a kind of evidence is present."""
        return [moment.evidence[kind] > 0 for moment in self.moments]


def write_script(seed: int, plain_share: float = 0.0) -> Script:
    """The script of one video; `plain_share` of all seeds have no highlight (one more distractor in its place)."""
    random = np.random.default_rng((seed, 7))
    order = [int(i) for i in random.permutation(SEGMENTS)]
    highlight = NO_HIGHLIGHT if random.random() < plain_share else order[0]
    counts = dict.fromkeys(order, 2)
    counts[order[0]] = 2 if highlight == NO_HIGHLIGHT else 3
    counts |= {segment: int(random.random() < 0.6) for segment in order[DISTRACTORS + 1 :]}
    moments = tuple(_moment(counts[segment], random) for segment in range(SEGMENTS))
    return Script(seed, highlight, moments)


def _moment(kinds: int, random: Generator) -> Moment:
    present = random.choice(len(KINDS), size=kinds, replace=False)
    evidence = {
        kind: float(random.uniform(WEAKEST, 1)) if index in present else 0.0 for index, kind in enumerate(KINDS)
    }
    decoys = {decoy: float(random.uniform(WEAKEST, 1)) if random.random() < 0.3 else 0.0 for decoy in DECOYS}
    decoys["calm_shout"] *= evidence["words"] == 0
    text = _text(evidence["words"] > 0, decoys["calm_shout"] > 0, random)
    return Moment(evidence, decoys, text, cut=bool(random.random() < 0.4))


def _text(excited: bool, shout: bool, random: Generator) -> str:
    """At most 32 characters; surprise is in the words, not in capitals or exclamation marks."""
    if not excited and not shout and random.random() < 0.3:
        return ""
    starts, ends = (EXCITED_STARTS, EXCITED_ENDS) if excited else (CALM_STARTS, CALM_ENDS)
    text = f"{random.choice(starts)} {random.choice(ends)}"
    if shout or random.random() < 0.25:
        text = f"{text}{'!' * int(random.integers(1, 4))}"
    return text.upper() if random.random() < 0.25 else text


def best_with_kinds(scripts: Collection[Script], kinds: Collection[str]) -> float:
    """Expected share of highlights found by one who knows these kinds of evidence perfectly and nothing else.

    They take a segment with the most of them and guess where several have as many.
    """
    shares = []
    for script in scripts:
        counts = [sum(moment.evidence[kind] > 0 for kind in kinds) for moment in script.moments]
        best = [segment for segment, count in enumerate(counts) if count == max(counts)]
        shares.append((script.highlight in best) / len(best))
    return float(np.mean(shares))

"""DAPO's dynamic sampling: learn only from groups that still tell good choices from bad ones.

DAPO is *Decoupled Clip and Dynamic sAmpling Policy Optimization* (arXiv 2503.14476). The document this project comes
from expands it as "Dynamic Accuracy-based Policy Optimization"; the rule it states, 0 < accuracy < 1, is the paper's
equation 11. Accuracy is the share of a group's recipes that succeed, i.e. reach a threshold. Where the paper
resamples up to ten times and then stops with an error, we move the threshold, after five useless groups in a row, to
the middle of what the policy now builds, and count the moves.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median

from hybrid_core.errors import InvalidInput

PATIENCE_GROUPS = 5
START_QUANTILE = 0.6


def group_accuracy(scores: Sequence[float], threshold: float) -> float:
    """Share of the scores that reach the threshold."""
    if not scores:
        raise InvalidInput("a group without scores has no accuracy; give one score per episode")
    return sum(score >= threshold for score in scores) / len(scores)


def is_informative(accuracy: float) -> bool:
    """DAPO's condition: some but not all of the group succeeded."""
    return 0.0 < accuracy < 1.0


def probability_kept(success_probability: float, group_size: int) -> float:
    """Chance that a group of independent episodes is kept: `1 - p^G - (1 - p)^G`.

    >>> round(probability_kept(0.1, 8), 3)
    0.57
    """
    return 1.0 - success_probability**group_size - (1.0 - success_probability) ** group_size


class DynamicSampling:
    """Decides group by group, and moves the threshold after five uninformative groups in a row.

    Attributes:
        kept, dropped: how many groups were used and set aside.
        threshold_moves: how often the threshold had to follow the policy.
    """

    def __init__(self, measured_scores: Sequence[float]) -> None:
        ordered = sorted(measured_scores)
        self.threshold = ordered[min(len(ordered) - 1, int(START_QUANTILE * len(ordered)))]
        self.kept = self.dropped = self.threshold_moves = 0
        self._recent: list[float] = []
        self._drops_in_a_row = 0

    def admit(self, scores: Sequence[float]) -> bool:
        """True when this group may train the policy."""
        if is_informative(group_accuracy(scores, self.threshold)):
            self.kept += 1
            self._drops_in_a_row = 0
            self._recent = []
            return True
        self.dropped += 1
        self._drops_in_a_row += 1
        self._recent += scores
        if self._drops_in_a_row % PATIENCE_GROUPS == 0:
            self.threshold = _between(self._recent)
            self.threshold_moves += 1
            self._recent = []
        return False


def _between(scores: Sequence[float]) -> float:
    """A threshold that splits the scores if they differ at all: the smallest score above the minimum, or the median."""
    middle = median(scores)
    return middle if middle > min(scores) else min((s for s in scores if s > middle), default=middle)

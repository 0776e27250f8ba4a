"""What quality tasks share: rows in whole batches, an order that spreads, checked data, answers that are classes."""

from __future__ import annotations

import math
from pathlib import Path

from torch import Tensor, nn

from hybrid_core.errors import InvalidInput
from hybrid_core.models.checkpoints import sha256_of


class ClassesTask:
    """The half of a task whose answers are logits: one forward pass, and a target is right where the largest is."""

    has_classes = True

    def answer(self, model: nn.Module, inputs: tuple[Tensor, ...]) -> Tensor:
        """Logits of shape targets.shape + (classes,)."""
        logits: Tensor = model(*inputs)
        return logits

    def score(self, answers: Tensor, targets: Tensor) -> Tensor:
        """The share of each row's targets that get the largest logit, (rows,) float64."""
        right = (answers.argmax(-1) == targets).double()
        return right.reshape(len(targets), -1).mean(1)

    def rates(self, model: nn.Module) -> dict[str, float]:
        """No further figures."""
        del model
        return {}


def whole_rows(rows: int, batch: int, available: int) -> int:
    """`rows` limited to what is available and rounded down to whole batches, but at least one batch.

    >>> [whole_rows(rows, batch=4, available=10) for rows in (1, 7, 100)]
    [4, 4, 8]
    """
    if rows < 1:
        raise InvalidInput(f"rows={rows} is not allowed; ask for at least 1 held-out row")
    return max(batch, min(rows, available) // batch * batch)


def spread(count: int) -> list[int]:
    """0..count-1 in golden-ratio steps: any beginning of the list is spread evenly over the whole.

    >>> spread(8)
    [0, 5, 2, 7, 4, 1, 6, 3]
    """
    step = round(count * (math.sqrt(5) - 1) / 2)
    while math.gcd(step, count) != 1:
        step += 1
    return [i * step % count for i in range(count)]


def check_hash(expected: str, path: Path) -> None:
    """Nothing if the file is the released one.

    Raises:
        InvalidInput: it is another one; a quality counted on it would be a different figure under the same name.
    """
    found = sha256_of(path)
    if found != expected:
        raise InvalidInput(
            f"{path} has SHA-256 {found[:12]}... but {expected[:12]}... was released; restore the file, because a "
            "quality measured on other data cannot be compared"
        )

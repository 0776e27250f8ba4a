"""Shows that a model still runs after its numbers changed type: its own code may read what is no longer there."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.strategies.base import Situation, run_example


@contextmanager
def prove_it_runs(setting: str, model: nn.Module, situation: Situation) -> Iterator[None]:
    """Change `model` in place inside the block; the example call is made at its end.

    Raises:
        StrategyUnsupported: the change or the call fails; the sentence names the setting and the first line of why.
    """
    try:
        yield
        run_example(model, situation)
    except StrategyUnsupported:
        raise
    except Exception as error:  # whatever the model's own code raises when its layers changed type
        raise StrategyUnsupported(f"after {setting} the model's own code fails: {first_line(error)}") from error


def first_line(error: BaseException) -> str:
    """The class of an error and the first line of what it says."""
    return f"{type(error).__name__}: {(str(error).splitlines() or [''])[0]}"

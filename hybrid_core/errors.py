"""One family of exceptions, grouped by what the caller can do about them.

Every message is one sentence a user can act on: the fact, the value seen, what is allowed, what to do.
Pages and the command line print `str(error)` and nothing else; traces go to the log.
"""

from __future__ import annotations


class HybridError(Exception):
    """Anything this project raises on purpose."""


class InvalidInput(HybridError, ValueError):
    """The caller gave a value that is not allowed; change it and call again."""


class StrategyUnsupported(HybridError):
    """The setting cannot be applied to this model, workload or machine; the message says why."""


class MeasurementFailed(HybridError):
    """A candidate could not be measured; `outcome` is the terminal state of its trial.

    Attributes:
        outcome: one of the failing values of `hybrid_core.records.Outcome`.
        stage: the phase it failed in: build, transform, correctness, compile, timing, memory or quality.
    """

    def __init__(self, message: str, *, outcome: str, stage: str) -> None:
        super().__init__(message)
        self.outcome = outcome
        self.stage = stage


class HubUnavailable(HybridError):
    """The hub does not answer; the message says what was tried and what to do."""

"""The two small networks of the learner: a policy over settings and a value of partial recipes.

Both are multilayer perceptrons with two hidden layers; the document's sizes (128 wide) suit states of a few dozen
numbers. Weights come from an explicit generator and never from torch's global one, so training inside somebody else's
program does not change that program's random numbers. Orthogonal start with a small last layer: Andrychowicz et al.
2020 (arXiv 2006.05990), section "networks architecture".
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from hybrid_core.errors import InvalidInput


class PolicyNetwork(nn.Module):
    """Probabilities of the actions, `(..., state_dim)` -> `(..., action_dim)`; masked actions have probability 0."""

    def __init__(
        self, state_dim: int, hidden_dim: int, action_dim: int, generator: torch.Generator | None = None
    ) -> None:
        super().__init__()
        self.body = _perceptron((state_dim, hidden_dim, hidden_dim, action_dim), 0.01, generator)

    def log_probabilities(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """Log-probabilities; a masked action is -inf. `mask` is True where an action is allowed.

        Raises:
            InvalidInput: some state allows no action at all.
        """
        logits: Tensor = self.body(state)
        if mask is not None:
            if not bool(mask.any(dim=-1).all()):
                raise InvalidInput("the mask allows no action in some state; leave at least 'off' allowed")
            logits = logits.masked_fill(~mask, -torch.inf)
        return logits.log_softmax(dim=-1)

    def forward(self, state: Tensor, mask: Tensor | None = None) -> Tensor:
        """Probabilities that sum to 1 over the allowed actions."""
        return self.log_probabilities(state, mask).exp()


class ValueNetwork(nn.Module):
    """Expected return of a state, `(..., state_dim)` -> `(...)`."""

    def __init__(self, state_dim: int, hidden_dim: int, generator: torch.Generator | None = None) -> None:
        super().__init__()
        self.body = _perceptron((state_dim, hidden_dim, hidden_dim, 1), 1.0, generator)

    def forward(self, state: Tensor) -> Tensor:
        """The value, one number per state."""
        value: Tensor = self.body(state)
        return value.squeeze(-1)


def _perceptron(widths: tuple[int, ...], last_gain: float, generator: torch.Generator | None) -> nn.Sequential:
    layers: list[nn.Module] = []
    for index, (wide_in, wide_out) in enumerate(pairwise(widths)):
        # skip_init: nn.Linear's own initialisation would draw from the global generator.
        linear = nn.utils.skip_init(nn.Linear, wide_in, wide_out)  # type: ignore[no-untyped-call]
        is_last = index == len(widths) - 2
        nn.init.orthogonal_(linear.weight, gain=last_gain if is_last else 2**0.5, generator=generator)
        nn.init.zeros_(linear.bias)
        layers += [linear] if is_last else [linear, nn.Tanh()]
    return nn.Sequential(*layers)

"""A start from what is known before anything is rolled out: imitate the recipes that did best elsewhere.

A policy that begins uniform spends its first hundred episodes on what every earlier measurement already rules out. So
it is first fitted to the top tenth of each earlier model's recipes, one model at a time so that a model with large
gains does not drown the others (behaviour cloning; it is VAPO's likelihood term of vapo.py used as a start). The
likelihood is mixed with a share of the uniform policy, so that nothing legal becomes impossible.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch

from hybrid_core.rl.game import RecipeGame
from hybrid_core.rl.networks import PolicyNetwork

TOP_SHARE = 0.1
CLONE_STEPS = 50
# Share of each target that is spread over all allowed settings.
UNIFORM_SHARE = 0.1


def top_keys(values: Iterable[tuple[str, float]], share: float = TOP_SHARE) -> list[str]:
    """The keys of the best `share` of one context's recipes, one at least, best first; only what gained anything.

    >>> top_keys([("a", 0.2), ("b", 0.5), ("c", -0.1)])
    ['b']
    """
    ranked = sorted(values, key=lambda pair: -pair[1])
    return [key for key, value in ranked[: max(1, round(share * len(ranked)))] if value > 0]


def clone_behaviour(
    policy: PolicyNetwork,
    optimizer: torch.optim.Optimizer,
    game: RecipeGame,
    keys: Sequence[str],
    steps: int = CLONE_STEPS,
) -> list[float]:
    """Raise the likelihood of building these recipes, repeats counting as often; the losses in order.

    Recipes that the game cannot build are left out; without any nothing happens and the list is empty.
    """
    finals = {key: state for state, key in enumerate(game.keys) if state >= game.first_finished}
    states = torch.tensor([finals[key] for key in keys if key in finals], dtype=torch.long)
    if not len(states):
        return []
    device = next(policy.parameters()).device
    nodes, actions = [], []
    for _ in range(game.horizon):
        actions.append(game.actions[states])
        states = game.parents[states]
        nodes.append(states)
    at, taken = torch.cat(nodes), torch.cat(actions).to(device)
    observations, masks = game.observations[at].to(device), game.masks[at].to(device)
    losses: list[float] = []
    for _ in range(steps):
        table = policy.log_probabilities(observations, masks)
        even = table.masked_fill(~masks, 0.0).sum(-1) / masks.sum(-1)
        own = table.gather(-1, taken[:, None]).squeeze(-1)
        loss = -((1.0 - UNIFORM_SHARE) * own + UNIFORM_SHARE * even).mean()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses.append(loss.item())
    return losses

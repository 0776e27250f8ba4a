"""Routing against brute force, and a dispatch that gives every token to exactly its experts."""

from __future__ import annotations

import copy

import pytest
import torch

from hybrid_core.models.parts.experts import MixtureOfExperts, Router, Routing, choose

ROUTING = Routing(experts=12, groups=4, groups_per_token=2, experts_per_token=3, hidden=10)


@pytest.fixture
def mixture():
    torch.manual_seed(0)
    mixture = MixtureOfExperts(8, ROUTING).eval().requires_grad_(False)
    mixture.router.weight.normal_()
    mixture.router.selection_bias.normal_(std=0.3)
    return mixture


def chosen_by_hand(scores: list[float], routing: Routing) -> set[int]:
    size = routing.experts // routing.groups
    groups = [range(g * size, (g + 1) * size) for g in range(routing.groups)]
    groups.sort(key=lambda group: -sum(sorted(scores[i] for i in group)[-2:]))
    reached = [i for group in groups[: routing.groups_per_token] for i in group]
    return set(sorted(reached, key=lambda i: -scores[i])[: routing.experts_per_token])


@pytest.mark.parametrize(
    "routing",
    [
        ROUTING,
        Routing(experts=12, groups=1, groups_per_token=1, experts_per_token=4, hidden=1),
        Routing(experts=8, groups=4, groups_per_token=1, experts_per_token=2, hidden=1),
        Routing(experts=256, groups=8, groups_per_token=4, experts_per_token=8, hidden=1),
    ],
    ids=lambda routing: f"{routing.experts}-{routing.groups}-{routing.groups_per_token}",
)
def test_group_limited_choice_equals_brute_force(routing):
    scores = torch.rand(300, routing.experts, generator=torch.Generator().manual_seed(1))
    chosen = choose(scores, routing)
    assert [set(row) for row in chosen.tolist()] == [chosen_by_hand(row, routing) for row in scores.tolist()]
    unlimited = scores.topk(routing.experts_per_token).indices
    limits = routing.groups_per_token < routing.groups
    assert (chosen.sort().values != unlimited.sort().values).any() == limits, "the limit never mattered"


def test_negative_biased_scores_do_not_let_an_expert_out_of_reach_win():
    scores = torch.rand(300, ROUTING.experts, generator=torch.Generator().manual_seed(2)) - 2
    assert [set(row) for row in choose(scores, ROUTING).tolist()] == [
        chosen_by_hand(row, ROUTING) for row in scores.tolist()
    ]


def test_bias_decides_who_is_chosen_and_not_how_much_they_count(mixture):
    router, x = mixture.router, torch.randn(50, 8, generator=torch.Generator().manual_seed(3))
    scores = (x @ router.weight.T).sigmoid()
    weights, chosen = router(x)
    expected = scores.gather(1, chosen)
    torch.testing.assert_close(weights, 2.5 * expected / expected.sum(1, keepdim=True))
    router.selection_bias.zero_()
    router.selection_bias[7] = 10.0
    weights, chosen = router(x)
    assert (chosen == 7).any(1).all()
    torch.testing.assert_close(weights.sum(1), torch.full((50,), 2.5))


def all_experts_masked(mixture: MixtureOfExperts, x: torch.Tensor) -> torch.Tensor:
    """Every expert on every token, and zeros for those that were not chosen."""
    tokens = x.reshape(-1, x.shape[-1])
    weights, chosen = mixture.router(tokens)
    share = torch.zeros(len(tokens), len(mixture.experts)).scatter(1, chosen, weights)
    answers = torch.stack([expert(tokens) for expert in mixture.experts], dim=1)
    return ((share[..., None] * answers).sum(1) + mixture.shared(tokens)).view(x.shape)


@pytest.mark.parametrize("shape", [(2, 30, 8), (1, 1, 8), (3, 1, 8), (1, 4, 8)])
def test_dispatch_equals_all_experts_on_all_tokens_masked(mixture, shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(4))
    torch.testing.assert_close(mixture(x), all_experts_masked(mixture, x), atol=1e-5, rtol=1e-5)


def test_an_expert_without_tokens_is_not_called_and_the_others_see_each_token_once(mixture):
    called: dict[int, int] = {}
    for number, expert in enumerate(mixture.experts):
        expert.register_forward_hook(
            lambda _, given, __, n=number: called.update({n: called.get(n, 0) + len(given[0])})
        )
    mixture(torch.randn(1, 1, 8, generator=torch.Generator().manual_seed(5)))
    assert sorted(called.values()) == [1] * ROUTING.experts_per_token
    called.clear()
    mixture.router.selection_bias[:3] = -10.0  # the first group is out of reach for everybody
    x = torch.randn(4, 25, 8, generator=torch.Generator().manual_seed(6))
    chosen = mixture.router(x.flatten(0, 1))[1]
    mixture(x)
    assert set(called) <= set(range(3, 12))
    assert called == {n: int((chosen == n).sum()) for n in called}
    assert sum(called.values()) == 100 * ROUTING.experts_per_token


def test_gradients_reach_the_chosen_experts_and_the_router_but_not_the_bias():
    torch.manual_seed(1)
    mixture = MixtureOfExperts(8, ROUTING)
    x = torch.randn(1, 1, 8)
    chosen = set(mixture.router(x[0])[1][0].tolist())
    mixture(x).square().sum().backward()
    assert {n for n, expert in enumerate(mixture.experts) if expert.down.weight.grad is not None} == chosen
    assert mixture.router.weight.grad.abs().sum() > 0
    assert mixture.router.selection_bias.grad is None


def test_a_bfloat16_mixture_answers_in_bfloat16_and_close(mixture):
    x = torch.randn(2, 20, 8, generator=torch.Generator().manual_seed(7))
    mixture.router.selection_bias.zero_()
    narrow = copy.deepcopy(mixture).to(torch.bfloat16)
    narrow.router.weight.data = mixture.router.weight.data  # the same choice, so that only rounding differs
    rounded = x.bfloat16()
    answer, wide = narrow(rounded), mixture(rounded.float())
    assert answer.dtype is torch.bfloat16
    assert (answer.float() - wide).norm() / wide.norm() < 0.02


def test_a_router_computes_scores_in_float32_whatever_the_type_of_the_model():
    torch.manual_seed(0)
    router = Router(8, ROUTING).to(torch.bfloat16)
    weights, _ = router(torch.randn(5, 8, dtype=torch.bfloat16))
    assert weights.dtype is torch.float32


@pytest.mark.parametrize(
    "wrong",
    [
        dict(experts=12, groups=5, groups_per_token=2, experts_per_token=2),
        dict(experts=4, groups=4, groups_per_token=2, experts_per_token=2),
        dict(experts=12, groups=4, groups_per_token=1, experts_per_token=4),
    ],
)
def test_a_routing_that_cannot_work_is_not_made(wrong):
    with pytest.raises(AssertionError):
        Routing(**wrong, hidden=4)

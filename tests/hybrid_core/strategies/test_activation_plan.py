"""The benchmark's planner against brute force, and its lives against a graph whose lives are known."""

import importlib.util
import itertools
import random
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

PATH = Path(__file__).resolve().parents[3] / "benchmarks" / "activation_plan.py"


@pytest.fixture(scope="module")
def plan():
    spec = importlib.util.spec_from_file_location("activation_plan", PATH)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def some_lives(plan, seed, count):
    draw = random.Random(seed)
    lives = []
    for _ in range(count):
        first = draw.randrange(5)
        lives.append(plan.Life(draw.randint(1, 4), first, first + draw.randrange(3)))
    return lives


def overlaps(plan, lives, offsets):
    pairs = itertools.combinations(range(len(lives)), 2)
    return any(
        lives[i].meets(lives[j])
        and offsets[i] < offsets[j] + lives[j].nbytes
        and offsets[j] < offsets[i] + lives[i].nbytes
        for i, j in pairs
    )


def best_by_force(plan, lives):
    """The smallest arena over all orders of placing each life at its lowest free byte, which includes the optimum."""
    best = sum(life.nbytes for life in lives)
    for order in itertools.permutations(range(len(lives))):
        offsets = {}
        for i in order:
            at = 0
            while any(
                lives[i].meets(lives[j]) and at < offsets[j] + lives[j].nbytes and offsets[j] < at + lives[i].nbytes
                for j in offsets
            ):
                at += 1
            offsets[i] = at
        best = min(best, max(offsets[i] + lives[i].nbytes for i in order))
    return best


@pytest.mark.parametrize("seed", range(25))
def test_a_plan_never_overlaps_and_lies_between_the_bound_and_what_greedy_may_waste(plan, seed):
    lives = some_lives(plan, seed, 5)
    offsets = plan.plan_arena(lives)
    assert not overlaps(plan, lives, offsets)
    best = best_by_force(plan, lives)
    assert plan.lower_bound(lives) <= best <= plan.arena_bytes(lives, offsets) <= 1.5 * best


def test_the_lower_bound_is_the_fullest_step(plan):
    for seed in range(25):
        lives = some_lives(plan, seed, 6)
        steps = range(max(life.last for life in lives) + 1)
        fullest = max(sum(life.nbytes for life in lives if life.first <= step <= life.last) for step in steps)
        assert plan.lower_bound(lives) == fullest


def test_a_larger_plan_has_no_overlap_either(plan):
    lives = some_lives(plan, 0, 80)
    assert not overlaps(plan, lives, plan.plan_arena(lives))


class Known(nn.Module):
    """Three results of 4 KiB; the first lives on through a view until the last."""

    def forward(self, x):
        first = x * 2
        view = first.view(-1)
        second = x + 1
        return second + view.view(32, 32)


def test_a_view_keeps_its_storage_alive_and_inputs_take_no_place(plan):
    lives, _ = plan.record_lives(Known(), (torch.ones(32, 32),))
    assert [life.nbytes for life in lives] == [4096] * 3
    first, second, third = lives
    assert first.meets(third) and second.meets(third) and first.meets(second)
    assert plan.lower_bound(lives) == plan.arena_bytes(lives, plan.plan_arena(lives)) == 3 * 4096


class Chain(nn.Module):
    def forward(self, x):
        return (((x * 2) + 1) * 3) + 4


def test_a_chain_needs_two_places(plan):
    lives, peak = plan.record_lives(Chain(), (torch.ones(32, 32),))
    assert len(lives) == 4
    assert plan.arena_bytes(lives, plan.plan_arena(lives)) == 2 * 4096
    assert 2 * 4096 <= peak < 2 * 4096 + 64  # the numbers of the sums are tensors for a moment

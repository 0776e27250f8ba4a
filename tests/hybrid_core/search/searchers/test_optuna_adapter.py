"""Optuna as a control: what its study is told, how often it is asked, and that it may be absent."""

import importlib.util
import random

import pytest

from hybrid_core.records import Recipe
from hybrid_core.search.searchers import optuna_adapter
from hybrid_core.search.searchers.base import Seen, Task
from hybrid_core.search.searchers.registry import SEARCHERS
from tests.hybrid_core.search.searchers.planted import space_of

KINDS = {"tpe": (optuna_adapter.make_tpe, 1), "nsga2": (optuna_adapter.make_nsga2, 2)}
SMALL = {"attention_fusion": 1, "kernel_fusion": 2, "quantization": 2}
FORBIDDEN = ((("kernel_fusion", "k0"), ("quantization", "q1")),)


def test_where_optuna_is_absent_the_reason_says_how_to_get_it(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    controls = [entry for entry in SEARCHERS if entry.is_control]
    assert {entry.name for entry in controls} == {"tpe", "optuna_nsga2"}
    assert all("pip install -c requirements.lock optuna" in entry.unavailable() for entry in controls)


pytest.importorskip("optuna", reason="optuna is in requirements-dev.txt; 'make test' installs it")


def made(kind, seed=0, forbidden=FORBIDDEN):
    make, objectives = KINDS[kind]
    space = space_of(SMALL, forbidden)
    return optuna_adapter.OptunaSearch(Task(space, random.Random(seed)), make, objectives)


def trial_of(searcher, recipe):
    wanted = {slot: recipe.to_dict().get(slot, "off") for slot in searcher.space.slots}
    return [trial for trial in searcher.study.get_trials() if trial.params == wanted]


def test_it_can_be_had_here():
    assert optuna_adapter.unavailable() is None


@pytest.mark.parametrize("kind", KINDS)
def test_its_own_questions_are_answered_and_those_of_others_are_added(kind):
    searcher = made(kind)
    (own,) = searcher.ask(1, lambda recipe: not recipe.is_baseline)
    other = next(r for r in searcher.space.recipes if not r.is_baseline and r.key != own.key)
    answers = {own: Seen(own, 0.1, objectives=(0.3, -0.1)), other: Seen(other, -0.2, objectives=(-0.5, 0.1))}
    for recipe, seen in answers.items():
        searcher.tell(seen)
        trial = trial_of(searcher, recipe)[-1]
        assert trial.state.name == "COMPLETE" and trial.constraints == {"bounds": 0.0}
        assert trial.values == ([seen.value] if kind == "tpe" else list(seen.objectives))


@pytest.mark.parametrize("kind", KINDS)
def test_failures_and_broken_bounds_break_a_constraint(kind):
    searcher = made(kind)
    failed, slow = searcher.space.recipes[1:3]
    searcher.tell(Seen.failed(failed))
    searcher.tell(Seen(slow, 0.4, objectives=(0.4, 0.4), violation=0.07))
    assert trial_of(searcher, failed)[0].constraints["bounds"] > 1
    assert trial_of(searcher, slow)[0].constraints == {"bounds": 0.07}
    searcher.tell(Seen(searcher.space.recipes[3], -3.0, objectives=(-3.0, -3.0)))
    assert searcher.study.best_trials[0].values[0] == -3.0


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_may_not_have_is_told_back_and_it_is_asked_a_bounded_number_of_times(kind):
    searcher = made(kind)
    searcher.tell(Seen(Recipe(), 0.0, objectives=(0.0, 0.0)))
    only = searcher.space.recipes[-1]
    before = len(searcher.study.get_trials())
    assert searcher.ask(3, lambda recipe: recipe is only) == [only]
    suggested = searcher.study.get_trials()[before:]
    assert 0 < len(suggested) <= 3 + 10
    for trial in suggested:
        steps = {slot: setting for slot, setting in trial.params.items() if setting != "off"}
        if not steps:
            assert trial.constraints == {"bounds": 0.0} and trial.values[0] == 0.0
        elif searcher.space.find(steps) is not only:
            assert trial.constraints["bounds"] > 1


@pytest.mark.parametrize("kind", KINDS)
def test_an_unanswered_question_waits_once(kind):
    """The same recipe may be named again while nobody has measured it; only one trial stays open for it."""
    searcher = made(kind)
    for _ in range(12):
        searcher.ask(2, lambda recipe: not recipe.is_baseline)
    running = [tuple(sorted(t.params.items())) for t in searcher.study.get_trials() if t.state.name == "RUNNING"]
    assert running and len(running) == len(set(running))


def test_the_population_fits_a_small_budget():
    assert made("nsga2").study.sampler.population_size == optuna_adapter.POPULATION <= 10


def test_it_prints_nothing(capfd):
    searcher = made("tpe")
    for _ in range(6):
        for recipe in searcher.ask(1, lambda recipe: not recipe.is_baseline):
            searcher.tell(Seen(recipe, 0.0))
    assert capfd.readouterr() == ("", "")

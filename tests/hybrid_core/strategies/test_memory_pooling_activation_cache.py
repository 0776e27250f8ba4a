import copy
import pickle

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.evaluation import Toolbox, case_from_module, evaluate
from hybrid_core.measurement import memory
from hybrid_core.recipes import apply_steps
from hybrid_core.records import MeasureLimits, MeasureRequest, Outcome, Purpose, Recipe, Subject, Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.pooling import answers
from hybrid_core.strategies.pooling.activation_cache import ENTRIES
from tests.hybrid_core.strategies.pooling_pieces import STRATEGY, TinyDecoder, decode_situation, noise
from tests.hybrid_core.strategies.pooling_pieces import apply as applied

RECIPE = Recipe.from_dict({"memory_pooling": "activation_cache"})


class Counted(nn.Module):
    """A small network that counts how often it really runs."""

    runs = 0

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers, self.scale = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3)), 1.0

    def forward(self, x, other=None):
        Counted.runs += 1
        return self.layers(x) * self.scale


def remembering(model=None):
    changed = applied("activation_cache", model or Counted().eval(), noise(2, 4, seed=99)).model
    Counted.runs = 0
    return changed


def ask(model, *args, **kwargs):
    with torch.no_grad():
        return model(*args, **kwargs)


def test_the_same_input_again_is_answered_without_running_and_with_the_same_bits():
    model, x = remembering(), noise(2, 4)
    plain = Counted().eval()
    first, second = ask(model, x), ask(model, x.clone())
    assert Counted.runs == 1 and (model.answer_cache.hits, model.answer_cache.misses) == (1, 1)
    assert torch.equal(first, second) and torch.equal(second, ask(plain, x))


def test_writing_into_an_answer_or_an_input_does_not_change_later_answers():
    model, x = remembering(), noise(2, 4)
    kept = x.clone()
    right = ask(model, x).clone()
    for _ in range(3):
        ask(model, x).zero_()
    assert torch.equal(ask(model, x), right)
    x.add_(1)
    assert not torch.equal(ask(model, x), right)
    assert torch.equal(ask(model, kept), right)


@pytest.mark.parametrize(
    "change",
    [
        lambda m: m.layers[0].weight.add_(1),
        lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}),
        lambda m: m.load_state_dict({k: v + 1 for k, v in m.state_dict().items()}, assign=True),
        lambda m: setattr(m.layers, "2", nn.Linear(8, 3)),
        lambda m: setattr(m.layers[0].weight, "data", torch.ones(8, 4)),
        lambda m: setattr(m, "scale", 2.0),
    ],
    ids=["in place", "state", "assigned state", "another layer", "other data", "attribute"],
)
def test_an_answer_of_other_weights_is_never_given(change):
    model, x = remembering(), noise(2, 4)
    stale = ask(model, x)
    with torch.no_grad():
        change(model)
    fresh = Counted().eval()
    fresh.layers, fresh.scale = model.layers, model.scale
    got = ask(model, x)
    assert torch.equal(got, ask(fresh, x)) and not torch.equal(got, stale)


def test_a_copy_begins_with_nothing_so_that_weights_changed_before_it_cannot_be_forgotten():
    model, x = remembering(), noise(2, 4)
    ask(model, x)
    with torch.no_grad():
        model.layers[0].weight.add_(1)
    twin = copy.deepcopy(model)
    assert len(twin.answer_cache) == 0 and len(pickle.loads(pickle.dumps(model.answer_cache))) == 0
    assert torch.equal(ask(twin, x), ask(model, x))


def test_a_hash_collision_does_not_answer_wrongly(monkeypatch):
    monkeypatch.setattr(answers.Question, "key", lambda self: "the same for all")
    model, plain = remembering(), Counted().eval()
    for seed in (0, 1, 0, 2, 2):
        assert torch.equal(ask(model, noise(2, 4, seed=seed)), ask(plain, noise(2, 4, seed=seed)))
    assert model.answer_cache.hits == 1


def test_the_form_of_the_question_belongs_to_it():
    model = remembering()
    bits = torch.zeros(2, 4)
    for args in ((bits,), (-bits,), (torch.zeros(4, 4),), (torch.zeros(4, 2).T,), (bits, 1), (bits, True), (bits, 1.0)):
        ask(model, *args)
    assert model.answer_cache.hits == 0 and model.answer_cache.misses == 7


def test_what_cannot_be_compared_trained_or_watched_runs_the_model():
    model, x = remembering(), noise(2, 4)
    for _ in range(2):
        ask(model, x, other=object())
        assert model(x).requires_grad
    assert Counted.runs == 4 and len(model.answer_cache) == 0
    ask(model, x)
    handle = model.layers[0].register_forward_hook(lambda m, i, o: o)
    ask(model, x)
    assert Counted.runs == 6
    handle.remove()


def test_entries_and_bytes_are_bounded_and_the_least_recently_used_goes(monkeypatch):
    model = remembering()
    for seed in range(ENTRIES):
        ask(model, noise(2, 4, seed=seed))
    ask(model, noise(2, 4, seed=0))
    ask(model, noise(2, 4, seed=ENTRIES))
    assert len(model.answer_cache) == ENTRIES
    runs = Counted.runs
    ask(model, noise(2, 4, seed=0))
    assert Counted.runs == runs
    ask(model, noise(2, 4, seed=1))
    assert Counted.runs == runs + 1
    one = 2 * 4 * 4 + 2 * 3 * 4
    assert model.answer_cache.nbytes == ENTRIES * one
    model.answer_cache.forget()
    model.answer_cache.limit = 3 * one
    for seed in range(5):
        ask(model, noise(2, 4, seed=seed))
    assert len(model.answer_cache) == 3 and model.answer_cache.nbytes == 3 * one


def test_what_is_remembered_is_found_by_the_count_of_bytes():
    model = remembering()
    with memory.existing_storages() as before:
        ask(model, noise(2, 4))
        held = memory.held_bytes(model, before, memory.live_storages())
    assert held == memory.weight_bytes(model) + 2 * 4 * 4 + 2 * 3 * 4


class Draws(Counted):
    def forward(self, x):
        return x + 0 * torch.rand(())


class Drifts(Counted):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * 2


class Overwrites(Counted):
    def forward(self, x):
        return x.clamp_(min=0)


class HandsOutAnObject(Counted):
    def forward(self, x):
        return x * 2, object()


class AsksOften(Counted):
    def forward(self, x):
        return x


@pytest.mark.parametrize(
    ("kind", "why"),
    [
        (Draws, "random numbers"),
        (Drifts, "changes the model itself"),
        (Overwrites, "writes into its inputs"),
        (HandsOutAnObject, "compared and kept"),
    ],
)
def test_it_is_refused_where_an_answer_of_before_is_not_the_answer_of_now(kind, why):
    with pytest.raises(StrategyUnsupported, match=why):
        applied("activation_cache", kind().eval(), noise(2, 4))


def test_it_is_refused_for_decodes_and_calls_that_ask_more_often_than_is_remembered():
    with pytest.raises(StrategyUnsupported, match="goes on from a cache"):
        STRATEGY.apply("activation_cache", TinyDecoder().eval(), decode_situation())
    many = Situation(
        (noise(2, 4),),
        lambda m, i: sum(m(i[0] + turn) for turn in range(ENTRIES + 1)),
        Workload("sample", "sample", 2),
    )
    with pytest.raises(StrategyUnsupported, match="asks the model 9 times"):
        STRATEGY.apply("activation_cache", AsksOften().eval(), many)


def test_a_measurement_is_never_answered_from_memory():
    case, seen, hits = case_from_module(Counted().eval(), (noise(2, 4),)), [], {}

    def apply(model, recipe, situation):
        result = apply_steps(model, recipe, situation)
        seen.append(result.model)
        return result

    def enter(phase):
        hits[phase] = seen[0].answer_cache.hits if seen else 0

    limits = MeasureLimits(min_pairs=4, max_pairs=8, max_timed_s=2.0, quality_samples=8)
    subject = Subject("mine", "tiny", case.workload)
    request = MeasureRequest("a", "b", subject, RECIPE, Purpose.SEARCH, limits)
    trial = evaluate(case, request, on_phase=enter, toolbox=Toolbox(apply, lambda step: True))
    assert trial.outcome is Outcome.OK, trial.reason
    # The correctness phase asks an earlier question again; whatever is measured after it meets nothing it has seen.
    assert hits["correctness"] == 0 < hits["warmup"] == hits["timing"] == hits["memory"] == hits["quality"]
    assert seen[0].answer_cache.hits == hits["warmup"] < seen[0].answer_cache.misses
    assert trial.measurement.weight_bytes > trial.measurement.baseline_weight_bytes

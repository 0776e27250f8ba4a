"""Mixed precision: the solver against brute force, the bound on the whole model, and a table that is measured once."""

import copy
import itertools
import json
import math
import random

import pytest
import torch
from torch import nn

from hybrid_core.errors import StrategyUnsupported
from hybrid_core.measurement.memory import weight_bytes
from hybrid_core.records import Workload
from hybrid_core.strategies.base import Situation
from hybrid_core.strategies.precision import mixed_precision, sensitivity
from hybrid_core.strategies.precision.assignment import solve_assignment
from hybrid_core.strategies.precision.formats import FLOAT32, formats_for
from hybrid_core.strategies.precision.sensitivity import Choice, SensitivityTable, Unit, measure_sensitivity
from hybrid_core.strategies.registry import get_strategy

STRATEGY = get_strategy("quantization")
CPU = torch.device("cpu")


class Chain(nn.Sequential):
    """Layers of different widths and sizes, one of them fragile."""

    def __init__(self):
        torch.manual_seed(0)
        super().__init__(nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 64), nn.ReLU(), nn.Linear(64, 16))
        with torch.no_grad():
            self[2].weight[:, 0] *= 40  # one column dwarfs the rest, so few bits lose the others


class Counting:
    """The call of a situation, counted."""

    def __init__(self):
        self.calls = 0

    def __call__(self, model, inputs):
        self.calls += 1
        return model(*inputs)


def example(seed=0, rows=16):
    return (torch.randn(rows, 32, generator=torch.Generator().manual_seed(seed)),)


def situation_of(scratch=None, call=None, workload="forward"):
    return Situation(example(), call or Counting(), Workload(workload, "forward", 16), scratch=scratch)


def random_table(units, seed):
    generator = random.Random(seed)
    made = []
    for index in range(units):
        size, pace = generator.randint(100, 5000), generator.random() + 0.1
        choices = [Choice(FLOAT32, 0.0, 4 * size, pace)]
        for name, part in (("bfloat16", 2), ("int8", 1), ("int4", 0.5)):
            damage = 10 ** generator.uniform(-7, -3)
            choices.append(Choice(name, damage, int(part * size), pace * generator.uniform(0.4, 2)))
        made.append(Unit((f"layer{index}",), tuple(choices)))
    return SensitivityTable("made up", 0, tuple(made))


def cheapest_by_trying_all(table, bound, time_share):
    plain = [unit.choices[0] for unit in table.units]
    all_bytes, all_ms = sum(c.weight_bytes for c in plain), sum(c.milliseconds for c in plain)
    best = math.inf
    for taken in itertools.product(*(unit.choices for unit in table.units)):
        if sum(c.damage for c in taken) <= bound**2:
            held, spent = sum(c.weight_bytes for c in taken), sum(c.milliseconds for c in taken)
            best = min(best, time_share * spent / all_ms + (1 - time_share) * held / all_bytes)
    return best


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("time_share", [0.0, 0.5, 1.0])
def test_the_solver_finds_what_trying_every_assignment_finds(seed, time_share):
    table = random_table(6, seed)
    for bound in (0.002, 0.01, 0.03):
        assignment = solve_assignment(table, bound, time_share)
        assert assignment.cost == pytest.approx(cheapest_by_trying_all(table, bound, time_share), rel=1e-6)
        assert assignment.predicted_error <= bound * (1 + 1e-5)
        damages = {u.layers[0]: {c.format: c.damage for c in u.choices} for u in table.units}
        assert sum(damages[n][f] for n, f in assignment.formats.items()) == pytest.approx(assignment.predicted_error**2)


def test_a_bound_of_nothing_leaves_everything_in_float32():
    assert set(solve_assignment(random_table(5, 0), 0.0).formats.values()) == {FLOAT32}


def test_a_wider_bound_is_never_dearer():
    table = random_table(8, 3)
    costs = [solve_assignment(table, bound).cost for bound in (0.001, 0.003, 0.01, 0.03, 0.1)]
    assert costs == sorted(costs, reverse=True)


def test_a_damage_in_the_table_is_the_error_of_that_one_layer():
    model, situation = Chain().eval(), situation_of()
    table = measure_sensitivity(model, situation, formats_for(CPU))
    expected = model(*example()).double()
    narrow = (
        nn.functional.linear(model[1](model[0](*example())).bfloat16(), model[2].weight.bfloat16()).float()
        + model[2].bias
    )
    found = model[4](model[3](narrow)).double()
    choice = {c.format: c for c in table.units[1].choices}["bfloat16"]
    assert choice.damage == pytest.approx(float(((found - expected).norm() / expected.norm()) ** 2), rel=1e-3)


def test_the_bytes_of_a_choice_are_what_is_held_in_memory():
    formats = formats_for(CPU)
    assert {"int8", "int4", "bfloat16"} <= set(formats)
    layer = nn.Linear(64, 32, bias=False)
    for stored_in in formats.values():
        assert stored_in.weight_bytes(32, 64) == weight_bytes(nn.Sequential(stored_in.make(layer))), stored_in.name


def test_the_measurement_leaves_the_model_as_it_was():
    model = Chain().eval()
    before, kinds = copy.deepcopy(model.state_dict()), [type(m) for m in model.modules()]
    measure_sensitivity(model, situation_of(), formats_for(CPU))
    assert [type(m) for m in model.modules()] == kinds
    assert all(torch.equal(before[k], v) for k, v in model.state_dict().items())


@pytest.mark.parametrize(("setting", "bound"), [("mixed_1", 0.01), ("mixed_5", 0.05)])
def test_the_bound_holds_on_the_whole_model(setting, bound, tmp_path):
    model = Chain().eval()
    applied = STRATEGY.apply(setting, copy.deepcopy(model), situation_of(tmp_path))
    expected, found = model(*example()), applied.model(*example())
    assert 0 < float((found - expected).norm() / expected.norm()) <= bound
    assert weight_bytes(applied.model) < weight_bytes(model)


def test_another_bound_is_solved_without_measuring_again(tmp_path):
    first, second = Counting(), Counting()
    STRATEGY.apply("mixed_5", Chain().eval(), situation_of(tmp_path, first))
    table = sensitivity.SensitivityTable.from_json(json.loads(next(tmp_path.glob("*.json")).read_text()))
    STRATEGY.apply("mixed_1", Chain().eval(), situation_of(tmp_path, second))
    assert table.model_calls >= 3 * 3  # three layers, three formats or more
    own = 2 + 2 * mixed_precision.MOST_ROUNDS  # the answers, each verification, the proof that it runs
    assert second.calls <= own and first.calls >= table.model_calls


@pytest.mark.parametrize("what", ["weights", "workload"])
def test_other_weights_or_another_workload_are_measured_anew(tmp_path, what):
    model = Chain().eval()
    sensitivity.sensitivity_of(model, situation_of(tmp_path))
    if what == "weights":
        model[0].weight.data[0, 0] += 1e-3
    sensitivity.sensitivity_of(model, situation_of(tmp_path, workload="other" if what == "workload" else "forward"))
    assert len(list(tmp_path.glob("sensitivity-*.json"))) == 2


def test_a_table_that_is_cut_off_is_measured_again(tmp_path):
    model, situation = Chain().eval(), situation_of(tmp_path)
    table = sensitivity.sensitivity_of(model, situation)
    path = next(tmp_path.glob("*.json"))
    path.write_text(path.read_text()[:40])
    again = sensitivity.sensitivity_of(model, situation)
    assert [u.layers for u in again.units] == [u.layers for u in table.units]
    assert SensitivityTable.from_json(json.loads(path.read_text())) == again


def test_fresh_inputs_are_used_where_the_situation_can_draw_them():
    """Half of them for the table, the rest unseen until the whole model is verified."""
    drawn = []

    def draw(turn):
        return drawn.append(turn) or example(turn)

    situation = Situation(example(), Counting(), Workload("forward", "forward", 16), fresh_inputs=draw)
    table = measure_sensitivity(Chain().eval(), situation, formats_for(CPU))
    assert drawn == [1] and table.model_calls == 2 + 2 + 2 * sum(len(u.choices) - 1 for u in table.units)
    mixed_precision.solve_until_it_holds(table, Chain().eval(), situation, 0.05)
    assert drawn == [1, 1, 2, 3]


def test_where_damages_do_not_add_it_is_solved_again_with_a_tighter_bound():
    """The table claims a tenth of the damage, so the first solution breaks the bound when the model runs."""
    model, situation = Chain().eval(), situation_of()
    honest = measure_sensitivity(model, situation, formats_for(CPU))
    units = [
        Unit(u.layers, tuple(Choice(c.format, c.damage / 100, c.weight_bytes, 1.0) for c in u.choices))
        for u in honest.units
    ]
    flattering = SensitivityTable(honest.fingerprint, honest.model_calls, tuple(units))
    bound = 2 * max(c.damage for u in honest.units for c in u.choices if c.format == "bfloat16") ** 0.5
    found = mixed_precision.solve_until_it_holds(flattering, model, situation, bound)
    assert found.rounds > 1 and found.error <= bound and set(found.assignment.formats.values()) != {FLOAT32}


def test_too_many_layers_for_the_time_are_measured_in_groups(monkeypatch):
    monkeypatch.setattr(sensitivity, "MOST_SECONDS", 0.0)
    table = measure_sensitivity(Chain().eval(), situation_of(), formats_for(CPU))
    assert [unit.layers for unit in table.units] == [("0", "2", "4")]


def test_where_fewer_bits_only_cost_time_bytes_alone_decide(tmp_path):
    model, situation = Chain().eval(), situation_of()
    honest = measure_sensitivity(model, situation, formats_for(CPU))
    units = [
        Unit(
            u.layers,
            tuple(Choice(c.format, c.damage, c.weight_bytes, 1.0 if c.damage == 0 else 99.0) for c in u.choices),
        )
        for u in honest.units
    ]
    slow = SensitivityTable(honest.fingerprint, honest.model_calls, tuple(units))
    found = mixed_precision.solve_until_it_holds(slow, model, situation, 0.05)
    assert found.time_share == 0 and set(found.assignment.formats.values()) != {FLOAT32}


def test_a_bound_that_nothing_meets_is_a_refusal():
    model, situation = Chain().eval(), situation_of()
    table = measure_sensitivity(model, situation, formats_for(CPU))
    with pytest.raises(StrategyUnsupported, match="fewer bits"):
        mixed_precision.solve_until_it_holds(table, model, situation, 1e-9)


def test_one_layer_is_no_mixture():
    with pytest.raises(StrategyUnsupported, match="several"):
        STRATEGY.apply("mixed_1", nn.Sequential(nn.Linear(32, 16)).eval(), situation_of())

"""Every setting on every model of the registry and on a few small modules: what it claims to support it does rightly,
and the rest it refuses.

The committed table says which settings apply to which models; a setting that stops applying somewhere fails here
instead of quietly refusing everything. Inputs are cut short, because only right and wrong are asked here; what needs a
compiler for tens of seconds is held to the same promises by `make bench-strategies`, which checks each of its trials.

    python tests/contracts/test_strategies_on_models.py     writes the table anew, after a change that is meant
"""

import dataclasses
import importlib.util
import json
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from torch import nn

ROOT = Path(__file__).parents[2]
TABLE = Path(__file__).with_name("strategies_on_models.json")
if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))

from hybrid_core.errors import StrategyUnsupported  # noqa: E402
from hybrid_core.evaluation import case_from_registry  # noqa: E402
from hybrid_core.handover import recipe_from_json, recipe_json  # noqa: E402
from hybrid_core.models.registry import ENTRIES, get_entry  # noqa: E402
from hybrid_core.records import Recipe, Subject, Workload  # noqa: E402
from hybrid_core.strategies.base import Situation  # noqa: E402
from hybrid_core.strategies.registry import STRATEGIES, get_setting, get_strategy  # noqa: E402

LONGEST = {"batch": 4, "length": 24, "new_tokens": 3}
# Seconds that a setting may cost on one model before it is left to the benchmark.
AFFORDABLE_S = 15.0
# Settings that have tests of their own, because none of these models shows them anything to change.
NEEDS_MORE = {
    "attention_fusion=library_sdpa": "only models of transformers have the switch",
    "memory_pooling=keep_freed_memory": "the process must be started with the variables",
    "memory_pooling=preallocated": "no result of these models is large enough",
}


def load_kit():
    spec = importlib.util.spec_from_file_location("strategy_contract", ROOT / "tests/contracts/strategy_contract.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


kit = load_kit()


def subjects():
    """Of every model the first workload, and the first of each other kind."""
    for entry in ENTRIES:
        kinds = {}
        for workload in entry.workloads("tiny"):
            kinds.setdefault(workload.kind, workload)
        for workload in kinds.values():
            yield f"{entry.name} {workload.name}", workload


def steps():
    for strategy in STRATEGIES:
        for setting in strategy.settings:
            if setting.expected_cost_s < AFFORDABLE_S and not setting.compiles:
                yield f"{strategy.name}={setting.name}"


class ConvBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


# name -> how to build it, and the shape of its input
MODULES = {
    "a convolution": (ConvBlock, (8, 3, 12, 12)),
    "a perceptron": (lambda: nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4)), (8, 16)),
    "no parameters": (lambda: nn.Sequential(nn.Flatten(), nn.Softmax(-1)), (4, 6)),
}
SUBJECTS = dict(subjects()) | {name: Workload("forward", "forward", shape[0]) for name, (_, shape) in MODULES.items()}
STEPS = tuple(steps())
NOT_HERE = {
    step: reason
    for step in STEPS
    if (reason := get_strategy(step.split("=")[0]).unavailable(step.split("=")[1], "cpu"))
}


def shortened(workload):
    cut = {name: min(most, getattr(workload, name)) for name, most in LONGEST.items()}
    return dataclasses.replace(workload, **cut)


def module_case(name):
    """Norms away from one and zero, so that folding them has something to fold."""
    build, shape = MODULES[name]
    torch.manual_seed(0)
    model, generator = build().eval(), torch.Generator().manual_seed(1)
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)):
        nn.init.normal_(norm.weight)
        nn.init.normal_(norm.bias)
    example, fresh = (torch.randn(*shape, generator=generator) for _ in range(2))
    situation = Situation((example,), lambda m, i: m(*i), SUBJECTS[name])
    return kit.ContractCase(name, model, situation, (fresh,))


@cache
def contract_case(name):
    if name in MODULES:
        return module_case(name)
    model, workload = name.split()[0], shortened(SUBJECTS[name])
    entry = get_entry(model)
    case = case_from_registry(Subject(model, "tiny", SUBJECTS[name]))
    example, fresh = (entry.make_inputs("tiny", workload, torch.Generator().manual_seed(seed)) for seed in (3, 4))
    situation = Situation(example, lambda m, i: entry.call(m, workload, i), workload)
    return kit.ContractCase(name, case.build_model(), situation, fresh)


def outcome(step, name):
    """True where the setting was applied and everything held, False where it was refused with a sentence."""
    strategy, setting = step.split("=")
    torch.manual_seed(0)
    only = OneSetting(get_strategy(strategy), setting)
    return bool(kit.check_strategy(only, [contract_case(name)]).applied)


class OneSetting:
    """A strategy seen as having one of its settings only."""

    def __init__(self, strategy, setting):
        self._strategy, self.settings = strategy, (get_setting(strategy.name, setting),)
        self.conflicts = tuple(c for c in strategy.conflicts if c.setting == setting)

    def __getattr__(self, name):
        return getattr(self._strategy, name)


def supported():
    return json.loads(TABLE.read_text())


@pytest.mark.parametrize("name", SUBJECTS)
@pytest.mark.parametrize("step", STEPS)
def test_a_setting_keeps_its_promises_on_every_model_and_applies_where_it_says(step, name):
    if step in NOT_HERE:
        pytest.skip(NOT_HERE[step])
    assert outcome(step, name) == (name in supported()[step])


def test_the_table_names_every_setting_and_each_applies_somewhere():
    table = supported()
    assert set(table) == set(STEPS)
    assert {step for step in STEPS if not table[step] and step not in NOT_HERE} == set(NEEDS_MORE)


@pytest.mark.parametrize("step", STEPS)
def test_a_recipe_of_one_setting_survives_being_written_and_read(step):
    recipe = Recipe.from_key(step)
    assert recipe_from_json(json.loads(json.dumps(recipe_json({}, recipe, {}, {})))) == recipe


def write_table():
    table = json.loads(TABLE.read_text()) if TABLE.exists() else {}
    for step in STEPS:
        if step not in NOT_HERE:
            table[step] = [name for name in SUBJECTS if tried(step, name)]
            print(f"{step}: {', '.join(table[step]) or 'nowhere'}", flush=True)
    TABLE.write_text(json.dumps({step: table.get(step, []) for step in STEPS}, indent=1) + "\n")


def tried(step, name):
    try:
        return outcome(step, name)
    except (AssertionError, StrategyUnsupported) as broken:
        print(f"  BROKEN {step} on {name}: {str(broken)[:200]}")
        return False
    except Exception as crash:  # the table is still written; the test then names what crashed
        print(f"  CRASHED {step} on {name}: {type(crash).__name__}: {str(crash)[:200]}")
        return False


if __name__ == "__main__":
    write_table()

import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.records import STRATEGY_NAMES, Workload
from hybrid_core.strategies.base import Applied, Setting, Situation
from hybrid_core.strategies.registry import STRATEGIES, get_setting, get_strategy

ROOT = Path(__file__).parents[3]


def _load(name, path):
    spec = importlib.util.spec_from_file_location(name, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


contract = _load("strategy_contract", ROOT / "tests/contracts/strategy_contract.py")


def mlp_case():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4)).eval()
    example, fresh = (torch.randn(8, 16, generator=generator) for _ in range(2))
    situation = Situation((example,), lambda m, i: m(*i), Workload("forward", "forward", 8))
    return contract.ContractCase("mlp", model, situation, (fresh,))


class Broken:
    """A strategy that breaks one promise at a time."""

    name, title, purpose, conflicts = "broken", "Broken", "Breaks promises.", ()
    claimed = {"speed": 1.0, "memory": 1.0, "accuracy": 1.0}
    settings = (Setting("only", "Does something.", 10, True, 1.0, ("https://example.org",)),)

    def __init__(self, act):
        self.act = act

    def unavailable(self, setting, device):
        return None

    def unsupported(self, setting, model, situation):
        return None

    def apply(self, setting, model, situation):
        return self.act(model)


CASE = mlp_case()


def does_nothing(model):
    return Applied(model, ("nothing",))


def says_nothing(model):
    model.append(nn.Identity())
    return Applied(model, ())


def answers_wrongly(model):
    model.append(nn.Tanh())
    return Applied(model, ("added tanh",))


def changes_type(model):
    model.append(nn.Identity())
    model.register_forward_hook(lambda m, a, out: out.double())
    return Applied(model, ("doubled",))


def touches_the_original(model):
    with torch.no_grad():
        CASE.model[0].weight.add_(1)
    model.append(nn.Identity())
    return Applied(model, ("touched",))


def overwrites_inputs(model):
    model.insert(0, nn.Identity())
    model.register_forward_hook(lambda m, a, out: a[0].zero_() is None or out)
    return Applied(model, ("overwrote",))


def refuses_without_reason(model):
    raise StrategyUnsupported("no")


@pytest.mark.parametrize(
    ("act", "complaint"),
    [
        (does_nothing, "made none"),
        (says_nothing, "says nothing"),
        (answers_wrongly, "relative error"),
        (changes_type, "shape or type"),
        (touches_the_original, "changed the original"),
        (overwrites_inputs, "overwrites the inputs|changed what"),
        (refuses_without_reason, "without a sentence"),
    ],
)
def test_the_kit_catches_each_broken_promise(act, complaint):
    saved = copy.deepcopy(CASE.model.state_dict())
    try:
        with pytest.raises(AssertionError, match=complaint):
            contract.check_strategy(Broken(act), [CASE])
    finally:
        CASE.model.load_state_dict(saved)


def test_the_registry_holds_the_documented_strategies_and_every_strategy_file():
    assert {s.name for s in STRATEGIES} == set(STRATEGY_NAMES)
    files = {p.stem for p in (ROOT / "hybrid_core/strategies").glob("*.py") if "claimed={" in p.read_text()}
    assert files == {s.name for s in STRATEGIES}


def test_the_claims_are_the_figures_of_the_document():
    claims = {s.name: tuple(s.claimed[k] for k in ("speed", "memory", "accuracy")) for s in STRATEGIES}
    assert claims == {
        "kernel_fusion": (1.2, 1.1, 0.99),
        "quantization": (1.5, 2.0, 0.97),
        "memory_pooling": (1.1, 1.8, 1.0),
        "attention_fusion": (1.3, 1.4, 0.98),
    }


def test_unknown_names_are_refused_with_the_known_ones():
    with pytest.raises(InvalidInput, match="kernel_fusion, quantization"):
        get_strategy("kernel_fussion")
    with pytest.raises(InvalidInput, match="int8_dynamic, int8_keep_ends"):
        get_setting("quantization", "int4")


def test_stages_put_attention_before_folding_before_quantization_before_compiling_before_slicing():
    order = [("attention_fusion", "sdpa"), ("kernel_fusion", "fold"), ("memory_pooling", "in_place"),
             ("quantization", "int8_dynamic"), ("memory_pooling", "static_cache"), ("kernel_fusion", "compile"),
             ("memory_pooling", "micro_batch")]  # fmt: skip
    stages = [get_setting(*step).stage for step in order]
    assert stages == sorted(stages) and len(set(stages)) == len(stages)


def test_the_page_lists_every_setting_with_what_it_declares():
    declared = {
        (s.name, x.name, str(x.stage), "no" if x.exact else "yes", "on request" if x.on_request else "yes")
        for s in STRATEGIES
        for x in s.settings
    }
    listed = set()
    for line in (ROOT / "docs/strategies.md").read_text().splitlines():
        cells = [cell.strip() for cell in line.split("|")[1:-1]]
        if len(cells) == 6 and cells[1].startswith("`"):
            listed.add((cells[0], cells[1].strip("`"), cells[2], cells[3], cells[4].split(",")[0]))
    assert listed == declared


def test_every_conflict_names_settings_that_exist():
    known = {s.name: {x.name for x in s.settings} | {"*"} for s in STRATEGIES}
    for strategy in STRATEGIES:
        for conflict in strategy.conflicts:
            assert conflict.setting in known[strategy.name], conflict
            assert conflict.other_setting in known[conflict.other_strategy], conflict

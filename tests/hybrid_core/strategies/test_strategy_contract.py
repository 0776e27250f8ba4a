import copy
import importlib.util
import sys
from pathlib import Path

import pytest
import torch
from torch import nn

from hybrid_core.errors import InvalidInput, StrategyUnsupported
from hybrid_core.models.registry import get_entry
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
COMPILED = {s.name for strategy in STRATEGIES for s in strategy.settings if s.compiles}


class ConvBlock(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU()
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        x = self.act(self.norm(self.conv(x)))
        return self.head(x.mean((2, 3)))


def small_cases():
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(1)
    models = {
        "conv": (ConvBlock(), (8, 3, 12, 12)),
        "mlp": (nn.Sequential(nn.Linear(16, 32), nn.ReLU(), nn.LayerNorm(32), nn.Linear(32, 4)), (8, 16)),
        "parameterless": (nn.Sequential(nn.Flatten(), nn.Softmax(-1)), (4, 6)),
    }
    for name, (model, shape) in models.items():
        for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d | nn.LayerNorm)):
            nn.init.normal_(norm.weight)
            nn.init.normal_(norm.bias)
        example, fresh = (torch.randn(*shape, generator=generator) for _ in range(2))
        situation = Situation((example,), lambda m, i: m(*i), Workload("forward", "forward", shape[0]))
        yield contract.ContractCase(name, model.eval(), situation, (fresh,))


def registry_cases():
    for name, workload_index in (("llama", 0), ("llama", 1), ("convnet", 0), ("sequential", 0)):
        entry = get_entry(name)
        size = entry.sizes[0]
        workload = entry.workloads(size)[workload_index]
        generator = torch.Generator().manual_seed(3)
        example, fresh = (entry.make_inputs(size, workload, generator) for _ in range(2))
        situation = Situation(example, lambda m, i, e=entry, w=workload: e.call(m, w, i), workload)
        yield contract.ContractCase(f"{name} {workload.name}", entry.build(size, 0), situation, fresh)


def without_compilers(setting, case):
    return setting in COMPILED


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
def test_every_strategy_keeps_the_contract_on_small_models(strategy):
    outcomes = contract.check_strategy(strategy, list(small_cases()), skip=without_compilers)
    expected = {
        "kernel_fusion": {"fold on conv", "fold on mlp"},
        "quantization": {f"{s} on {m}" for s in ("int8_dynamic", "int8_weight_only", "bfloat16", "float16")
                         for m in ("conv", "mlp")} | {"mixed_1 on mlp", "mixed_5 on mlp"},
        "memory_pooling": {
            "in_place on conv", "in_place on mlp", "micro_batch on conv", "micro_batch on mlp",
            "micro_batch on parameterless",
        },
        "attention_fusion": set(),
    }  # fmt: skip
    assert set(outcomes.applied) == expected[strategy.name]
    assert outcomes.refused


@pytest.mark.parametrize("strategy", STRATEGIES, ids=lambda s: s.name)
def test_every_strategy_keeps_the_contract_on_the_registry(strategy):
    outcomes = contract.check_strategy(strategy, list(registry_cases()), skip=without_compilers)
    expected = {
        "kernel_fusion": {"fold on llama prefill", "fold on llama decode", "fold on convnet forward",
                          "fold on sequential forward", "merge on llama prefill", "merge on llama decode"},
        "quantization": {f"{s} on {m}" for s in ("int8_dynamic", "int8_weight_only", "bfloat16", "float16")
                         for m in ("llama prefill", "llama decode", "convnet forward", "sequential forward")}
                        | {f"{s} on {m}" for s in ("int4_group32", "int4_group128", "mixed_1", "mixed_5")
                           for m in ("llama prefill", "llama decode", "sequential forward")}
                        | {"int8_keep_ends on llama prefill", "int8_keep_ends on llama decode"},
        "memory_pooling": {"in_place on llama prefill", "in_place on llama decode", "in_place on convnet forward",
                           "static_cache on llama decode", "micro_batch on convnet forward",
                           "micro_batch on sequential forward"},
        "attention_fusion": {f"{s} on llama {w}" for s in ("sdpa", "sdpa_causal") for w in ("prefill", "decode")},
    }  # fmt: skip
    assert set(outcomes.applied) == expected[strategy.name]


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


CASE = next(c for c in small_cases() if c.name == "mlp")


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
    with pytest.raises(InvalidInput, match="int8_dynamic, bfloat16"):
        get_setting("quantization", "int4")


def test_stages_put_attention_before_folding_before_quantization_before_compiling_before_slicing():
    order = [("attention_fusion", "sdpa"), ("kernel_fusion", "fold"), ("memory_pooling", "in_place"),
             ("quantization", "int8_dynamic"), ("memory_pooling", "static_cache"), ("kernel_fusion", "compile"),
             ("memory_pooling", "micro_batch")]  # fmt: skip
    stages = [get_setting(*step).stage for step in order]
    assert stages == sorted(stages) and len(set(stages)) == len(stages)

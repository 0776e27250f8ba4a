"""The universal optimizer really calls the hybrid core and reports what was applied, not what was switched on."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from hybrid_core import create_universal_optimizer
from hybrid_core.errors import InvalidInput
from hybrid_core.records import STRATEGY_NAMES

DOCUMENTED = {
    "enable_hybrid_optimization": True,
    "enable_candidate_selection": True,
    "enable_ensemble_optimization": True,
    "enable_rl_optimization": True,
    "enable_dapo": True,
    "enable_vapo": True,
    "enable_orz": True,
    "num_candidates": 5,
    "hybrid_strategies": list(STRATEGY_NAMES),
}
INTERVAL = {"value": 1.5, "low": 1.4, "high": 1.6}
RESULT = {
    "recipe": {"quantization": "bfloat16"},
    "sentence": "it won",
    "intervals": {"speed_improvement": INTERVAL},
    "verdicts": {"speed": "better"},
    "trials": [
        {"recipe": {"quantization": "bfloat16"}, "changes": ["first"]},
        {"recipe": {"quantization": "bfloat16"}, "changes": ["cast 6 parameters"]},
    ],
}


@pytest.fixture
def model() -> nn.Sequential:
    return nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 4))


def with_answer(optimizer, monkeypatch, model, result):
    calls = []

    def answer(given, example_inputs=None, *, budget_s):
        calls.append((given, budget_s))
        return nn.Linear(16, 4), result

    monkeypatch.setattr(optimizer.core, "hybrid_optimize_module", answer)
    return calls


def test_the_documented_configuration_is_accepted_and_reaches_the_core():
    """The original's own example raised TypeError on enable_rl_optimization."""
    changed = DOCUMENTED | {"num_candidates": 7, "enable_vapo": False, "hybrid_strategies": ["quantization"]}
    options = create_universal_optimizer(changed).core.config
    assert (options.num_candidates, options.enable_vapo, options.optimization_strategies) == (
        7,
        False,
        ("quantization",),
    )
    assert create_universal_optimizer(DOCUMENTED).core.config == create_universal_optimizer().core.config


@pytest.mark.parametrize("key", ["enable_pruning", "use_mcts_optimization", "enable_fp16", "optimization_strategies"])
def test_other_keys_are_refused_by_name(key):
    with pytest.raises(InvalidInput, match=f"'{key}' is unknown to the universal optimizer"):
        create_universal_optimizer({key: True})


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({"hybrid_strategies": ["magic"]}, "hybrid_strategies"),
        ({"hybrid_strategies": []}, "hybrid_strategies"),
        ({"num_candidates": 0}, "num_candidates"),
        ({"enable_hybrid_optimization": "yes"}, "enable_hybrid_optimization"),
        ({"enable_dapo": 1}, "enable_dapo"),
    ],
)
def test_impossible_values_are_refused_by_their_own_name(config, field):
    with pytest.raises(InvalidInput, match=field):
        create_universal_optimizer(config)


def test_the_hybrid_core_is_really_called(monkeypatch, model):
    optimizer = create_universal_optimizer()
    calls = with_answer(optimizer, monkeypatch, model, RESULT)
    optimized = optimizer.optimize_model(model, "mine", budget_s=33)
    assert calls == [(model, 33)] and isinstance(optimized, nn.Linear)


def test_the_report_lists_what_was_applied_with_its_measured_effect(monkeypatch, model):
    """The original listed every switch that was on, also what had just failed."""
    optimizer = create_universal_optimizer()
    with_answer(optimizer, monkeypatch, model, RESULT)
    optimizer.optimize_model(model, "mine")
    record = optimizer.performance_metrics["mine"]
    assert record["optimizations_applied"] == [
        {
            "recipe": {"quantization": "bfloat16"},
            "changes": ["cast 6 parameters"],
            "measured": {"speed_improvement": INTERVAL},
            "verdicts": {"speed": "better"},
            "steps": [
                {
                    "strategy": "quantization",
                    "setting": "bfloat16",
                    "measured_alone": {"speed_improvement": INTERVAL},
                }
            ],
        }
    ]
    assert (record["original_parameters"], record["optimized_parameters"]) == (16 * 8 + 8 + 8 * 4 + 4, 16 * 4 + 4)


def ratios(speed: float) -> dict:
    names = ("speed_improvement", "memory_efficiency", "accuracy_preservation")
    return {name: {"value": speed, "low": speed, "high": speed} for name in names}


ENSEMBLE = {
    "quantization": "bfloat16",
    "attention_fusion": "sdpa",
    "memory_pooling": "in_place",
    "kernel_fusion": "fold",
}
ENSEMBLE_RESULT = RESULT | {
    "recipe": ENSEMBLE,
    "intervals": ratios(3.0),
    "trials": [
        {"recipe": {"quantization": "bfloat16"}, "outcome": "ok", "changes": ["a"], **ratios(1.2)},
        {"recipe": {"quantization": "bfloat16"}, "outcome": "ok", "changes": ["a"], **ratios(1.3)},
        {"recipe": {"attention_fusion": "sdpa"}, "outcome": "crashed", "reason": "it fell over"},
        {"recipe": ENSEMBLE, "outcome": "ok", "changes": ["all four"], **ratios(2.9)},
    ],
    "skipped": [{"key": "memory_pooling=in_place", "reason": "not measured: the budget was used"}],
}


def test_each_step_of_an_ensemble_has_its_own_measured_effect_or_says_why_not(monkeypatch, model):
    """Effects are never multiplied or divided out of the whole."""
    optimizer = create_universal_optimizer()
    with_answer(optimizer, monkeypatch, model, ENSEMBLE_RESULT)
    optimizer.optimize_model(model, "mine")
    (entry,) = optimizer.performance_metrics["mine"]["optimizations_applied"]
    steps = {step["strategy"]: step for step in entry["steps"]}
    assert entry["measured"] == ratios(3.0) and entry["changes"] == ["all four"] and list(steps) == list(ENSEMBLE)
    assert steps["quantization"]["measured_alone"] == ratios(1.3) and "note" not in steps["quantization"]
    assert {name: (step["measured_alone"], step["note"]) for name, step in steps.items() if "note" in step} == {
        "attention_fusion": (None, "not measured alone (crashed: it fell over)"),
        "memory_pooling": (None, "not measured alone (not measured: the budget was used)"),
        "kernel_fusion": (None, "not measured alone"),
    }
    json.dumps(optimizer.get_optimization_report(), allow_nan=False)


@pytest.mark.parametrize(
    "key", [key for key in DOCUMENTED if key not in ("enable_hybrid_optimization", "hybrid_strategies")]
)
def test_every_documented_key_changes_what_the_core_does(key):
    """Each reaches the core's configuration under its own name; docs/api.md says what each does there."""
    value = 3 if key == "num_candidates" else False
    changed = create_universal_optimizer(DOCUMENTED | {key: value}).core.config
    assert getattr(changed, key) == value and changed != create_universal_optimizer(DOCUMENTED).core.config


def test_nothing_applied_is_an_empty_list_although_every_switch_is_on(monkeypatch, model):
    optimizer = create_universal_optimizer(DOCUMENTED)
    with_answer(optimizer, monkeypatch, model, RESULT | {"recipe": {}, "sentence": "nothing beat it"})
    optimizer.optimize_model(model)
    assert optimizer.performance_metrics["unknown"]["optimizations_applied"] == []
    assert optimizer.performance_metrics["unknown"]["note"] == "nothing beat it"


def test_switched_off_it_returns_an_unchanged_copy_and_says_so(model):
    optimizer = create_universal_optimizer({"enable_hybrid_optimization": False})
    optimized = optimizer.optimize_model(model, "mine")
    assert optimized is not model and torch.equal(optimized(torch.ones(1, 16)), model(torch.ones(1, 16)))
    record = optimizer.performance_metrics["mine"]
    assert record["optimizations_applied"] == [] and "nothing was applied" in record["note"]


def test_the_report_is_written_as_json(model, tmp_path):
    optimizer = create_universal_optimizer({"enable_hybrid_optimization": False})
    assert optimizer.get_optimization_report() == {"message": "No optimizations performed yet"}
    optimizer.optimize_model(model, "mine")
    path = optimizer.save_optimization_report(tmp_path / "report.json")
    report = json.loads(path.read_text())
    assert report["total_optimizations"] == 1 and report["models"][0]["model_name"] == "mine"
    with pytest.raises(InvalidInput, match="cannot be written"):
        optimizer.save_optimization_report(tmp_path / "no" / "such" / "folder.json")
